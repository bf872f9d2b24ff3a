"""What a classifier answers, and when an attacker has won."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

GoalKind = Literal["untargeted", "targeted"]
SMALLEST = float(np.finfo(np.float32).tiny)
REJECTED = -1  # the label of an input that a detector rejected


@dataclass(frozen=True)
class Output:
    """What a defended classifier says of N inputs.

    `logits` is (N, K), before any softmax. `scores` is (N, M), one column a detector, each scaled by its
    threshold: an input is rejected where any score is above 0. M is 0 for a defense that rejects nothing.
    """

    logits: Tensor
    scores: Tensor

    @classmethod
    def of(cls, logits: Tensor) -> Output:
        """An answer with no detectors."""
        return cls(logits, logits.new_zeros(len(logits), 0))

    @property
    def accepted(self) -> Tensor:
        """(N,) bool: no detector fired; a score that is not a number counts as fired."""
        return (self.scores <= 0).all(dim=1)

    @property
    def labels(self) -> Tensor:
        """(N,) int64: the class given, REJECTED (-1) where the input was rejected."""
        return torch.where(self.accepted, self.logits.argmax(dim=1), REJECTED)

    def rows(self, index: Tensor | slice) -> Output:
        """The answer to some of the inputs."""
        return Output(self.logits[index], self.scores[index])

    def detach(self) -> Output:
        """The same answer without its graph."""
        return Output(self.logits.detach(), self.scores.detach())


def unanswered(out: Output, y: Tensor | None = None) -> Tensor:
    """(N,) bool: no answer, which is neither right nor a survived attack: NaN, +inf, or -inf for all classes.

    A class at -inf is masked out and legal, but for the true one where `y` (N,) tells it. A detector's score may be
    infinite, but not NaN.
    """
    logits = out.logits.detach()
    if out.scores.shape[1] == 0 and math.isfinite(float(logits.sum())):  # nearly always, and next to no time
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    lost = torch.isnan(out.scores).any(dim=1)
    if bool(torch.isfinite(logits).all()):
        return lost
    lost = lost | torch.isnan(logits).any(dim=1) | (logits.amax(dim=1).abs() == torch.inf)
    return lost if y is None else lost | (logits.gather(1, y[:, None])[:, 0] == -torch.inf)


def distance(one: Output, other: Output) -> float:
    """The largest distance between two answers' logits over the size of the first's; scores count as logits do."""
    # numpy's functions take a tenth of the time of torch's for so few numbers.
    a, b = (
        np.concatenate(
            [part.detach().cpu().numpy() for part in (out.logits, out.scores)], axis=1, dtype=np.float64
        )
        for out in (one, other)
    )
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.linalg.norm(np.where(np.isfinite(a), a, 0), axis=1).clip(min=SMALLEST)
        gap = np.linalg.norm(np.where(a == b, 0, a - b), axis=1)  # a masked class is infinite in both
        return float(np.nan_to_num(gap / size, nan=np.inf, posinf=np.inf).max())


Loss = Callable[[Output], Tensor]


@dataclass(frozen=True)
class Goal:
    """What counts as a win for the attacker: leaving the true class, or reaching a chosen one.

    `classes` is (N,) int64: the true labels y when untargeted, the targets t when targeted.
    """

    kind: GoalKind
    classes: Tensor

    @classmethod
    def untargeted(cls, y: Tensor) -> Goal:
        """Any accepted answer other than y."""
        return cls("untargeted", y)

    @classmethod
    def targeted(cls, t: Tensor) -> Goal:
        """The accepted answer t."""
        return cls("targeted", t)

    def rows(self, index: Tensor) -> Goal:
        """The goal of the samples in `index` alone."""
        return Goal(self.kind, self.classes[index])

    def loss(self, out: Output) -> Tensor:
        """Cross-entropy towards the goal, (N,), larger is better for the attacker (FGSM, eq. 1).

        A firing detector is charged its score, so that ascent also leads back to where inputs are accepted.
        """
        cross_entropy = F.cross_entropy(out.logits, self.classes, reduction="none")
        loss = cross_entropy if self.kind == "untargeted" else -cross_entropy
        return loss - out.scores.clamp(min=0).sum(dim=1) if out.scores.shape[1] else loss

    def margin(self, out: Output) -> Tensor:
        """C&W's objective as the judge's verdict, (N,): above 0 exactly where accepted and the goal is reached.

        A tie between the true class and another is no right answer, so it counts as a win when untargeted;
        for a targeted goal a tie is not yet a win.
        """
        own = out.logits.gather(1, self.classes[:, None])[:, 0]
        other = out.logits.scatter(1, self.classes[:, None], -torch.inf).amax(dim=1)
        if self.kind == "untargeted":
            gap = other - own
            gap = torch.where(gap == 0, gap + torch.finfo(gap.dtype).tiny, gap)
        else:
            gap = own - other
        if out.scores.shape[1] == 0:
            return gap
        return torch.where(out.accepted, gap, torch.minimum(gap, -out.scores.amax(dim=1)))

    def reached(self, out: Output) -> Tensor:
        """(N,) bool: the attacker won. An answer that is not a number is no win."""
        return self.margin(out) > 0


def correct(out: Output, y: Tensor) -> Tensor:
    """(N,) bool: accepted, and y scores strictly above every other class. NaN is never right."""
    own = out.logits.gather(1, y[:, None])[:, 0]
    other = out.logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    return out.accepted & (own > other)

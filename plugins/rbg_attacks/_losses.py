"""The losses that gradient attacks climb: cross-entropy, C&W's margin, and the difference of logits ratio."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from robustbench_gan.contracts import TINY, Goal, Loss, NotApplicable, Output, unknown

LossName = Literal["ce", "margin", "dlr"]


def loss_of(name: LossName, goal: Goal) -> Loss:
    """The named loss of a goal: an Output of N samples to (N,), larger is better for the attacker.

    `ce` is `goal.loss`. `margin` is the unclipped gap between the logits (Carlini and Wagner 2017, f_6), which has
    a gradient where cross-entropy has underflowed. `dlr` divides that gap by the spread of the largest logits
    (Croce and Hein 2020, eqs. 6 and 7), so that no rescaling of the logits can hide it. Every loss is charged a
    firing detector's score. Raises UsageError for another name; `dlr` raises NotApplicable where there are fewer
    than three classes, or four for a targeted goal.
    """
    if name == "ce":
        return goal.loss
    if name == "margin":
        return lambda out: gap(goal, out) - charge(out)
    if name == "dlr":
        return lambda out: gap(goal, out) / _spread(out.logits, goal.kind == "targeted") - charge(out)
    raise unknown("loss", name, get_args(LossName))


def dlr_towards(y: Tensor, t: Tensor) -> Loss:
    """The ratio that leads from the true classes y (N,) to the classes t (N,) (Croce and Hein 2020, eq. 7)."""

    def loss(out: Output) -> Tensor:
        own, other = out.logits.gather(1, torch.stack([y, t], dim=1)).unbind(dim=1)
        return (other - own) / _spread(out.logits, targeted=True) - charge(out)

    return loss


def gap(goal: Goal, out: Output) -> Tensor:
    """How far the logits are past the goal, (N,): negative before it."""
    own = out.logits.gather(1, goal.classes[:, None])[:, 0]
    other = out.logits.scatter(1, goal.classes[:, None], -torch.inf).amax(dim=1)
    return other - own if goal.kind == "untargeted" else own - other


def charge(out: Output) -> Tensor:
    """What the firing detectors cost, (N,); 0 without any."""
    return out.scores.clamp(min=0).sum(dim=1)


def _spread(logits: Tensor, targeted: bool) -> Tensor:
    """From the largest logit to the third, or to the middle of third and fourth: (N,), above 0."""
    need = 4 if targeted else 3
    if logits.shape[1] < need:
        raise NotApplicable(
            f"the dlr loss ranks {need} classes and this system answers {logits.shape[1]}: take margin"
        )
    top = logits.topk(need, dim=1).values
    return (top[:, 0] - top[:, 2:].mean(dim=1)).clamp(min=TINY)

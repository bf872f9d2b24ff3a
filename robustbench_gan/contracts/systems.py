"""Systems: what a view looks at, the defended one or a classifier alone, and how any number of images is answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from robustbench_gan.base.batching import pieces
from robustbench_gan.base.errors import NotANumber
from robustbench_gan.nouns.outcome import Output, unanswered

if TYPE_CHECKING:
    from robustbench_gan.contracts.defense import Defense
    from robustbench_gan.contracts.gradients import Gradient, Surrogate


class System(Protocol):
    """What a view looks at: inputs (N, C, H, W) and seeds (N,) in, an Output out."""

    @property
    def defended(self) -> bool:
        """Is the defense in the loop?"""

    def __call__(self, x: Tensor, seed: Tensor) -> Output:
        """Answer."""


@dataclass(frozen=True)
class Defended:
    """The defended system with one of the gradients a threat model may grant.

    `surrogate` is an attacker's own stand-in for the purifier in the backward pass of BPDA; None is the defender's.
    """

    defense: Defense
    gradient: Gradient = "full"
    unroll: int = 5
    defended: bool = True
    surrogate: Surrogate | None = None

    def __call__(self, x: Tensor, seed: Tensor) -> Output:
        """The defense's answer. Raises NotANumber as `answered`."""
        out = self.defense.attacked(x, seed, self.gradient, self.unroll, self.surrogate)
        return answered(out, x, "the defended system")


@dataclass(frozen=True)
class Bare:
    """A classifier alone: a gray-box core, a substitute, a model in training."""

    model: nn.Module
    defended: bool = False

    def __call__(self, x: Tensor, seed: Tensor) -> Output:
        """The classifier's answer; it is not random. Raises NotANumber as `answered`."""
        return answered(Output.of(self.model(x)), x, "the classifier")


def answered(out: Output, x: Tensor, who: str) -> Output:
    """The same answer to images x. Raises NotANumber where there is none for one that is a number itself."""
    lost = unanswered(out)
    if bool(lost.any()):
        lost = lost & torch.isfinite(x.detach()).flatten(1).all(dim=1)
        if bool(lost.any()):
            raise NotANumber(f"{who} answered NaN or infinity")
    return out


def answer(
    system: System, x: Tensor, seed: Tensor, chunks: Iterable[tuple[slice | Tensor, int]] | None = None
) -> Output:
    """A system's answer to any number of inputs, computed in padded micro-batches of one shape."""
    chunks = pieces(len(x), x.device) if chunks is None else chunks
    return joined([first_rows(system(x[rows], seed[rows]), real) for rows, real in chunks])


def joined(outs: Sequence[Output]) -> Output:
    """The answers to several pieces as one."""
    if len(outs) == 1:
        return outs[0]
    return Output(torch.cat([o.logits for o in outs]), torch.cat([o.scores for o in outs]))


def mean_of(outs: Sequence[Output]) -> Output:
    """The mean answer over several draws."""
    if len(outs) == 1:
        return outs[0]
    logits, scores = torch.stack([o.logits for o in outs]), torch.stack([o.scores for o in outs])
    return Output(logits.mean(dim=0), scores.mean(dim=0))


def first_rows(out: Output, real: int) -> Output:
    """The answers to the images of a micro-batch that are `real`, and not its padding."""
    if real == out.logits.shape[0]:
        return out
    return Output(out.logits[:real], out.scores[:real])


def ask_both_ways(system: System, x: Tensor, seed: Tensor) -> None:
    """One answer and one gradient: all that a network may do for itself while it is attacked. x (N, C, H, W)."""
    with torch.no_grad():
        system(x, seed)
    with torch.enable_grad():
        given = x.clone().requires_grad_()
        torch.autograd.grad(system(given, seed).logits.sum(), given, allow_unused=True)

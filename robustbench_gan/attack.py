"""What can be known of an attack without running it: the decorator every attack stands under."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from torch import Tensor

from robustbench_gan.budget import NORMS, Budget, Norm
from robustbench_gan.outcome import Goal
from robustbench_gan.threat import View

Needs = Literal["gradient", "scores", "labels", "nothing"]
Passes = Callable[[Mapping[str, Any]], float]


class Attack(Protocol):
    """The call of every attack; its keyword-only parameters are its whole configuration."""

    def __call__(
        self, view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor, /, **parameters: Any
    ) -> Tensor:
        """Return adversarial examples, (N, C, H, W) float32 in [0, 1], for x of that shape and seed (N,) int64."""


@dataclass(frozen=True)
class AttackInfo:
    """The facts that decide, before any run, which combinations can be.

    `passes` gives the number of gradient (or forward) passes a sample from the parameters; the estimate of a
    cell's cost stands on it. `gradient` names the one gradient an attack is defined by (BPDA). `control`
    marks an attack that is no evidence of robustness when it fails, such as random noise.
    """

    norms: tuple[Norm, ...]
    needs: Needs
    passes: Passes
    minimal: bool
    targeted: bool
    gradient: str | None
    control: bool
    paper: str


F = TypeVar("F", bound=Callable[..., Tensor])


def attack(
    *,
    norms: tuple[Norm, ...] = NORMS,
    needs: Needs,
    passes: Passes = lambda parameters: 1,
    minimal: bool = False,
    targeted: bool = True,
    gradient: str | None = None,
    control: bool = False,
    paper: str,
) -> Callable[[F], F]:
    """State what an attack needs and can do; the registered function keeps it as `.info`."""
    info = AttackInfo(norms, needs, passes, minimal, targeted, gradient, control, paper)

    def decorate(function: F) -> F:
        function.info = info  # type: ignore[attr-defined]
        return function

    return decorate


def info_of(function: Any) -> AttackInfo:
    """The facts of a registered attack. Raises TypeError when it does not stand under `@attack`."""
    info = getattr(function, "info", None)
    if not isinstance(info, AttackInfo):
        raise TypeError(f"{function!r} is registered as an attack but does not stand under @attack(...)")
    return info

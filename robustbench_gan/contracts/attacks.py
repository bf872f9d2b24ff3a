"""What can be known of an attack without running it, and the form of those that must first be trained."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, get_args

import torch
from torch import Tensor, nn

from robustbench_gan.nouns.budget import NORMS, Budget, Norm

if TYPE_CHECKING:
    from robustbench_gan.contracts.view import View
    from robustbench_gan.data.samples import Samples
    from robustbench_gan.nouns.outcome import Goal

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

    `passes` bounds the passes a sample that an attack makes through the system, from its parameters and from what
    `cost` adds to them; `part_passes` those through a part of the defense alone. An attack that seeks the smallest
    perturbation, or is on an exact view, may end a sample early, but not before its `fewest` passes. The estimate of a
    cell's cost stands on all three. `gradient` names the one gradient an attack is defined by (BPDA). `control`
    marks an attack that is no evidence of robustness when it fails, such as random noise. `trained` says that
    it is a TrainedAttack, whose `needs` are those of its training. `checks_first` says that what stands before its
    first pass is checks alone, so that a plan may call it to learn what it refuses. `scale_free` says that, by its
    default parameters, logits times a constant from 0.1 to 10 and classes that no input can get (logits of -inf, or
    far below all others) change neither its success nor its sizes, but for chance and 2 % of the median size.
    """

    norms: tuple[Norm, ...]
    needs: Needs
    passes: Passes
    minimal: bool
    targeted: bool
    gradient: str | None
    control: bool
    paper: str
    trained: bool = False
    part_passes: Passes = lambda parameters: 0
    checks_first: bool = False
    scale_free: bool = False
    fewest: Passes = lambda parameters: 1

    def cost(
        self, parameters: Mapping[str, Any], norm: str, classes: int, features: int, eps: float = math.inf
    ) -> tuple[float, float]:
        """At most so many passes a sample through the system, and through parts of it, in this budget.

        `classes` and `features` (values an image) are the system's. `passes` finds them and the budget under `x.norm`,
        `x.classes`, `x.features` and `x.eps`, names that no parameter can have.
        """
        known = _known(parameters, norm, classes, features, eps)
        return self.passes(known), self.part_passes(known)

    def at_least(
        self, parameters: Mapping[str, Any], norm: str, classes: int, features: int, eps: float = math.inf
    ) -> float:
        """The `fewest` passes a sample, from the same facts as `cost`."""
        return self.fewest(_known(parameters, norm, classes, features, eps))


def _known(
    parameters: Mapping[str, Any], norm: str, classes: int, features: int, eps: float
) -> dict[str, Any]:
    return {**parameters, "x.norm": norm, "x.classes": classes, "x.features": features, "x.eps": eps}


F = TypeVar("F", bound=Callable[..., Any])


def attack(
    *,
    norms: tuple[Norm, ...] = NORMS,
    needs: Needs,
    passes: Passes = lambda parameters: 1,
    minimal: bool = False,
    targeted: bool = True,
    gradient: str | None = None,
    control: bool = False,
    part_passes: Passes = lambda parameters: 0,
    checks_first: bool = False,
    scale_free: bool = False,
    fewest: Passes = lambda parameters: 1,
    paper: str,
) -> Callable[[F], F]:
    """State what an attack needs and can do; the registered function or TrainedAttack keeps it as `.info`.

    Raises ValueError for a norm or a need that does not exist.
    """
    if not norms or not set(norms) <= set(NORMS) or needs not in get_args(Needs):
        raise ValueError(
            f"@attack(norms={norms!r}, needs={needs!r}): expected norms among {', '.join(NORMS)} and one of "
            f"{', '.join(get_args(Needs))}"
        )

    def decorate(function: F) -> F:
        trained = isinstance(function, type) and issubclass(function, TrainedAttack)
        info = AttackInfo(
            norms, needs, passes, minimal, targeted, gradient, control, paper, trained, part_passes, checks_first,
            scale_free, fewest,
        )  # fmt: skip
        function.info = info  # type: ignore[attr-defined]
        return function

    return decorate


def info_of(function: Any) -> AttackInfo:
    """The facts of a registered attack. Raises TypeError when it does not stand under `@attack`."""
    info = getattr(function, "info", None)
    if not isinstance(info, AttackInfo):
        raise TypeError(
            f"{_called(function)} is registered as an attack but does not stand under @attack(...)"
        )
    return info


@dataclass(frozen=True)
class Training:
    """What an attacker who trains may use: its labelled images, and the system that it trains through.

    `view` makes the gradient view of one batch, (B, C, H, W) at once, from one seed an image, (B,). `share` is the
    part of the attack's steps that one call of `fit` is to take: a protocol that trains in turns calls it often.
    """

    data: Samples
    view: Callable[[Tensor], View]
    share: float = 1.0


class TrainedAttack(nn.Module, ABC):
    """An attack that must be trained before it can be run; registered as a class, under the same decorator.

    The keyword-only parameters of `__init__` are its whole configuration. It is fitted once for a system, a budget
    and a class to aim at, and its weights are stored. `conditional` says that one training serves every target.
    """

    conditional: ClassVar[bool] = False

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.shape, self.classes = shape, classes

    @abstractmethod
    def fit(self, training: Training, goal_class: int | None, budget: Budget, seed: int) -> dict[str, float]:
        """Train on from the weights at hand towards `goal_class`, or away from the true class where it is None.

        A conditional attack is given None and trains for every target. Deterministic in `seed`. Leaves the module
        in evaluation mode and returns facts of the training, its `steps` among them.
        """

    @abstractmethod
    def forward(self, view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
        """Craft as any attack does, without asking for a gradient; the goal is the one it was fitted for."""


@dataclass(frozen=True)
class Fitted:
    """A trained attack in the form of any other: every sample goes to the generator of its target.

    `generators` are by target class; the only one of an untargeted or conditional attack is under None.
    """

    generators: Mapping[int | None, TrainedAttack]

    @torch.no_grad()
    def __call__(self, view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
        """Examples of the form of x, (N, C, H, W)."""
        if None in self.generators:
            made: Tensor = self.generators[None](view, x, goal, budget, seed)
            return made
        made = x.clone()
        for target in goal.classes.unique().tolist():
            rows = torch.nonzero(goal.classes == target)[:, 0]
            generator = self.generators[target]
            made[rows] = generator(view.rows(rows), x[rows], goal.rows(rows), budget, seed[rows])
        return made


def _called(found: object) -> str:
    """What something of a plugin's is called; its type where it has no name."""
    return str(getattr(found, "__qualname__", "") or f"a {type(found).__name__}")

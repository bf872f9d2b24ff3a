"""Defenses that decline to be attacked at one place or another, and attacks that decline, registered by `test_refusals`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from robustbench_gan.base.errors import NotApplicable
from robustbench_gan.contracts.attacks import attack
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.gradients import Gradient
from robustbench_gan.contracts.view import View
from robustbench_gan.data.dataset import Dataset
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.training.store import Store

ENTRY_POINTS = """[robustbench_gan.attacks]
far = planted_refusers:far
late = planted_refusers:late
picky = planted_refusers:picky
lens = planted_refusers:lens
[robustbench_gan.defenses]
refuser = planted_refusers:Refuser
liar = planted_refusers:Liar
"""
Place = Literal[
    "init", "fit", "copy", "purify", "gradient", "surrogate", "scores", "gradients", "parts", "truncated", "controls"
]  # fmt: skip


class Refuser(Defense):
    """Changes nothing, and is not applicable `at` one place."""

    purifies, unrolls = True, True

    def __init__(self, base: nn.Module, *, at: Place = "purify") -> None:
        super().__init__(base)
        self.at = at
        self._decline("init")

    def _decline(self, place: Place) -> None:
        if self.at == place:
            raise NotApplicable(f"never on a Tuesday, at {place}")

    @property
    def gradients(self) -> tuple[Gradient, ...]:
        self._decline("gradients")
        return ("full", "bpda")

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        self._decline("fit")
        if seed:
            self._decline("copy")
        made = store.fetch("refuser", {"seed": seed}, lambda: ({"nothing": torch.zeros(1)}, {}))
        self.keys = {"nothing": made.key}

    def training_keys(self) -> Mapping[str, str]:
        return self.keys

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        self._decline("purify")
        if x.requires_grad:
            self._decline("gradient")
        return x * 1.0

    def surrogate(self, x: Tensor, seed: Tensor) -> Tensor:
        self._decline("surrogate")
        return x

    def truncated(self, x: Tensor, seed: Tensor, steps: int) -> Tensor:
        self._decline("truncated")
        return x * 1.0

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        self._decline("scores")
        return x.new_zeros(len(x), 0)

    def parts(self) -> Mapping[str, nn.Module]:
        self._decline("parts")
        return {}

    def controls(self, x: Tensor, y: Tensor, seed: Tensor) -> Mapping[str, float]:
        self._decline("controls")
        return {}


class Liar(Defense):
    """Says that it is not random as long as it stands around no classifier: while attacks are planned."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.randomised = not isinstance(base, nn.Identity)


def _step(view: View, x: Tensor, goal: Goal, budget: Budget) -> Tensor:
    _, grad, _ = view.value_and_grad(goal.loss, x)
    return (x + budget.eps * grad.sign()).clamp(0, 1)


@attack(norms=("linf",), needs="gradient", checks_first=True, paper="planted")
def far(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Declines a budget above 0.25, before it asks for anything, as it may."""
    if budget.eps > 0.25:
        raise NotApplicable("only for an eps of 0.25 at most")
    return _step(view, x, goal, budget)


@attack(norms=("linf",), needs="gradient", paper="planted")
def late(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Declines once it has seen a gradient."""
    _step(view, x, goal, budget)
    raise NotApplicable("the gradient does not please")


@attack(norms=("linf",), needs="gradient", paper="planted")
def picky(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Declines before it asks, for what the system is made of: not its business."""
    if len(list(view.system.defense.parameters())):
        raise NotApplicable("not this one")
    return _step(view, x, goal, budget)


@attack(norms=("linf",), needs="gradient", paper="planted")
def lens(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Declines a defense that has no part of that name, as it may."""
    try:
        view.part("lens")
    except PermissionError as why:
        raise NotApplicable("no lens") from why
    return _step(view, torch.zeros_like(x), goal, budget)

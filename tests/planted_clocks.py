"""Attacks whose bound on passes says nothing of what they take, registered by `test_estimates`."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from robustbench_gan.contracts.attacks import TrainedAttack, Training, attack
from robustbench_gan.contracts.counts import OutOfTime
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal

ENTRY_POINTS = """[robustbench_gan.attacks]
brief = planted_clocks:brief
endless = planted_clocks:endless
stubborn = planted_clocks:stubborn
learns = planted_clocks:Learns
[robustbench_gan.defenses]
late = planted_clocks:Late
hangs = planted_clocks:Hangs
"""
FOREVER = 10**12


class Late(Defense):
    """Says that its time is up, so that what attacks it need not be run."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        raise OutOfTime("crafting")


class Hangs(Defense):
    """Is fitted for ever."""

    def fit(self, data: object, seed: int, store: object) -> None:
        time.sleep(FOREVER / 1e6)


@attack(norms=("linf",), needs="gradient", paper="planted")
class Learns(TrainedAttack):
    """Is trained for so many passes, stops where it is told to or not, and changes nothing."""

    def __init__(
        self, shape: tuple[int, int, int], classes: int, *, steps: int = FOREVER, stubborn: bool = False
    ) -> None:
        super().__init__(shape, classes)
        self.steps, self.stubborn = steps, stubborn
        self.register_buffer("trained", torch.zeros(1))

    def fit(self, training: Training, goal_class: int | None, budget: Budget, seed: int) -> dict[str, float]:
        index = torch.arange(len(training.data))
        x, view = training.data.pixels(index), training.view(index)
        try:
            for _ in range(self.steps):
                view.value_and_grad(Goal.untargeted(training.data.labels).loss, x)
        except OutOfTime:
            if not self.stubborn:
                raise
        return {"steps": 1}

    def forward(self, view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
        return (x + budget.eps).clamp(0, 1)


@attack(norms=("linf",), needs="gradient", minimal=True, passes=lambda p: FOREVER, paper="planted")
def brief(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Could take a trillion passes, and takes one."""
    _, grad, _ = view.value_and_grad(goal.loss, x)
    return (x + 0.1 * grad.sign()).clamp(0, 1)


@attack(norms=("linf",), needs="gradient", minimal=True, passes=lambda p: FOREVER, paper="planted")
def endless(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Takes all of its passes."""
    for _ in range(FOREVER):
        view.output(x)
    return x


@attack(norms=("linf",), needs="gradient", minimal=True, passes=lambda p: FOREVER, paper="planted")
def stubborn(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Is stopped, and would have what it returns then taken for an answer."""
    try:
        return endless(view, x, goal, budget, seed)
    except Exception:
        return x.clone()

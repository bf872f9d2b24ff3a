"""Attacks that must be trained, and what they need to be seen at work, registered by `test_trained_attacks`."""

from __future__ import annotations

from collections import Counter

import torch
from planted import Square
from planted_cells import Fixed
from torch import Tensor, nn

from robustbench_gan.contracts.attacks import TrainedAttack, Training, attack
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.view import View
from robustbench_gan.data.dataset import Dataset
from robustbench_gan.models.schedule import Schedule, trained
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.training.store import Store

ENTRY_POINTS = """[robustbench_gan.attacks]
shove = planted_trained:Shove
shove-any = planted_trained:ShoveAny
lazy = planted_trained:Lazy
[robustbench_gan.defenses]
square = planted_trained:SquareRoot
replaced = planted_trained:Replaced
[robustbench_gan.models]
learner = planted_trained:learner
"""
FITS = Counter()  # by name of the attack, in this process


@attack(norms=("linf",), needs="gradient", paper="planted")
class Shove(TrainedAttack):
    """One perturbation for all images: the sign of the gradient of the loss summed over the training images."""

    def __init__(self, shape, classes, *, steps: int = 2):
        super().__init__(shape, classes)
        self.steps, rows = steps, classes if self.conditional else 1
        self.direction: Tensor
        self.register_buffer("direction", torch.zeros(rows, *shape))

    def fit(self, training: Training, goal_class: int | None, budget: Budget, seed: int) -> dict[str, float]:
        FITS[type(self).__name__] += 1
        x, y = training.data.pixels(torch.arange(len(training.data))), training.data.labels
        steps = max(1, round(self.steps * training.share))
        for step in range(steps):
            view = training.view(sample_seeds(seed, f"shove/{step}", torch.arange(len(y))))
            for row in range(len(self.direction)):
                goal = Goal.untargeted(y)
                if goal_class is not None or self.conditional:
                    goal = Goal.targeted(torch.full_like(y, row if goal_class is None else goal_class))
                self.direction[row] += view.value_and_grad(goal.loss, x)[1].sum(dim=0)
        return {"steps": steps}

    def forward(self, view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
        return (x + budget.eps * self.direction.sign()).clamp(0, 1)


@attack(norms=("linf",), needs="gradient", paper="planted")
class ShoveAny(Shove):
    """One perturbation a class, all from one training; untargeted towards the runner-up."""

    conditional = True

    def forward(self, view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
        towards = goal.classes
        if goal.kind == "untargeted":
            towards = view.output(x).logits.scatter(1, towards[:, None], -torch.inf).argmax(dim=1)
        return (x + budget.eps * self.direction[towards].sign()).clamp(0, 1)


@attack(norms=("linf",), needs="gradient", paper="planted")
class Lazy(TrainedAttack):
    """Looks at the system `looks` times while it is trained and learns nothing; moves where it may, blindly."""

    def __init__(self, shape, classes, *, looks: int = 0):
        super().__init__(shape, classes)
        self.looks = looks

    def fit(self, training: Training, goal_class: int | None, budget: Budget, seed: int) -> dict[str, float]:
        for _ in range(self.looks):
            training.view(torch.arange(2)).output(training.data.pixels(torch.arange(2)))
        return {"steps": self.looks}

    def forward(self, view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
        return (x + budget.eps).clamp(0, 1)


class SquareRoot(Square):
    """Optimises at inference, in name: an iteration that could be unrolled."""


class Replaced(Defense):
    """Its core is another classifier than its base."""

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        self.core = Fixed(3, seed=9)
        self.key = store.fetch("planted", {}, lambda: (self.core.state_dict(), {})).key

    def training_keys(self) -> dict[str, str]:
        return {"core": self.key}


@trained(Schedule(epochs=0, one_cycle=False))
def learner(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A linear model that a distillation trains."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

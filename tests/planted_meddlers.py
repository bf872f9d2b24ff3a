"""Plugins that change what is not their own, each by one way, registered by `test_guard`."""

from __future__ import annotations

import gc

import torch
from planted_cells import UNTRAINED, Fixed, grey
from planted_changes import AROUND, MORE, VIEWED, WEIGHTS
from planted_returns import stepped
from torch import Tensor, nn

from robustbench_gan.contracts.attacks import TrainedAttack, Training, attack
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.view import View
from robustbench_gan.data.dataset import Split
from robustbench_gan.models.schedule import trained
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal

ENTRY_POINTS = """[robustbench_gan.attacks]
returns = planted_returns:returns
meddles = planted_meddlers:meddles
edits-data = planted_meddlers:edits_data
meddles-in-fit = planted_meddlers:MeddlesInFit
[robustbench_gan.models]
drifting = planted_meddlers:drifting
[robustbench_gan.defenses]
fit-meddles = planted_meddlers:FitMeddles
answers-meddle = planted_meddlers:AnswersMeddle
scaled = planted_meddlers:Scaled
edits-input = planted_returns:EditsInput
edits-scored = planted_returns:EditsScored
returns-other = planted_returns:ReturnsOther
nearest-test = planted_returns:NearestTest
"""


@attack(norms=("linf",), needs="gradient", paper="planted")
def meddles(
    view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor, *, what: str = "nothing"
) -> Tensor:
    """FGSM that changes one thing before it ends, and catches what that breaks."""
    made = stepped(view, x, goal, budget)
    if what in WEIGHTS:
        WEIGHTS[what][0](view.system.defense.base)
    for change, _ in MORE.values() if what == "more" else ():
        change()
    if what in AROUND:
        AROUND[what][0]()
    if what in VIEWED:
        VIEWED[what][0](view, goal)
    return made


def _move_data() -> None:
    """Every split as long as the training images of `grey`, wherever it is, in a way that no count of edits tells."""
    for held in gc.get_objects():
        if type(held) is Split and len(held) == len(grey().train):
            held.images.numpy()[...] = held.images.roll(1, 0).numpy()


@attack(norms=("linf",), needs="gradient", paper="planted")
def edits_data(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """FGSM that moves every training image to the next place."""
    _move_data()
    return stepped(view, x, goal, budget)


@attack(norms=("linf",), needs="gradient", paper="planted")
class MeddlesInFit(TrainedAttack):
    """Trains nothing, and zeroes the classifier it is trained through."""

    def fit(self, training: Training, goal_class: int | None, budget: Budget, seed: int) -> dict[str, float]:
        system = training.view(torch.zeros(1, dtype=torch.int64)).system
        system.defense.base.weight.data.zero_()
        return {"steps": 1}

    def forward(self, view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
        return x.clone()


class Scaled(Defense):
    """An honest purifier that keeps what its first answer and first gradient made, and counts its answers."""

    purifies = True

    def __init__(self, base: nn.Module, *, factor: float = 1.0) -> None:
        super().__init__(base)
        self.factor, self.kernel, self.steps, self.slopes = factor, None, [1], {}
        self.register_buffer("shift", torch.zeros(1))
        self.register_buffer("answers", torch.zeros(1))

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        if self.kernel is None:
            self.kernel = torch.full((1, 1, 1, 1), self.factor)
        self.answers += 1
        made = x * self.kernel + self.shift
        if made.requires_grad:
            made.register_hook(self.keep)
        return made

    def keep(self, grad: Tensor) -> None:
        self.slopes.setdefault("kernel", self.kernel)


class FitMeddles(Defense):
    """Changes in `fit` what it is given to learn from."""

    def __init__(self, base: nn.Module, *, what: str = "weights") -> None:
        super().__init__(base)
        self.what = what

    def fit(self, data, seed, store):
        if self.what == "weights":
            self.base.weight.data.zero_()
        elif self.what == "images":
            data.train.images.numpy()[...] = 0
        elif self.what == "order":
            data.validation.images.data.copy_(data.validation.images.flip(0))
        elif self.what == "labels":
            data.train.labels.zero_()
        elif self.what == "dtype":
            torch.set_default_dtype(torch.float64)


class AnswersMeddle(Defense):
    """Changes, while it answers a judge, what others stand on."""

    purifies = True

    def __init__(self, base: nn.Module, *, what: str = "weights") -> None:
        super().__init__(base)
        self.what = what

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            if self.what == "data":
                _move_data()
            elif self.what == "weights":
                self.base.weight.data.mul_(1.5)
            else:
                AROUND[self.what][0]()
        return x * 1.0


class Drifting(Fixed):
    """The known model behind a normalisation that goes on learning while it answers."""

    def __init__(self, classes: int, side: int) -> None:
        super().__init__(classes, side=side)
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean())
        return super().forward(x - self.mean)


@trained(UNTRAINED)
def drifting(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A model with a state."""
    return Drifting(classes, shape[1])

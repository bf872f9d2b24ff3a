"""Defenses with a secret from their training, and attacks that ask, peek or use it, registered by `test_attackers`."""

from __future__ import annotations

import sys

import torch
from planted_cells import Fixed
from torch import Tensor, nn

from robustbench_gan.contracts.attacks import attack
from robustbench_gan.contracts.counts import QueryLimit
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.view import View
from robustbench_gan.data.dataset import Dataset
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.training.store import Store

ENTRY_POINTS = """[robustbench_gan.attacks]
presses = planted_attackers:presses
asks = planted_attackers:asks
goes-on = planted_attackers:goes_on
[robustbench_gan.defenses]
secret = planted_attackers:Secret
seedless = planted_attackers:Seedless
no-parts = planted_attackers:NoParts
halves = planted_attackers:Halves
evades = planted_attackers:Evades
recored = planted_attackers:Recored
"""
SEEN: list[object] = []  # the defenses that `presses` was let through to
EXACT: list[bool] = []  # and if it was told that the judge sees what it sees
FITS: list[int] = []  # the training seeds of `Secret`, in this process
COPY_SEED = 2**31
PIXELS = 16


class Position(nn.Module):
    """A place in the image, as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.at: Tensor
        self.register_buffer("at", torch.zeros((), dtype=torch.int64))


class Secret(Defense):
    """Shows the classifier the inverse image, which is never right, where the secret pixel is exactly 1.

    The secret is drawn in training: pixel 3 for the defender's seed 0, another for every other seed.
    """

    purifies = True

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.secret, self.key = Position(), ""

    def recipe(self, seed: int) -> dict[str, int]:
        return {"seed": seed}

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        def build():
            FITS.append(seed)
            return {"at": torch.tensor((3 + seed % 7) % PIXELS)}, {}

        artifact = store.fetch("secret", self.recipe(seed), build)
        self.secret.load_state_dict(dict(artifact.tensors))
        self.key = artifact.key

    def training_keys(self) -> dict[str, str]:
        return {"secret": self.key}

    def parts(self) -> dict[str, nn.Module]:
        return {"secret": self.secret}

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        opened = x.flatten(1)[:, int(self.secret.at)] == 1
        return torch.where(opened[:, None, None, None], 1 - x, x)


class Seedless(Secret):
    """Trained, but not from a seed: whoever trains it again has the very same weights."""

    def recipe(self, seed: int) -> dict[str, int]:
        return {}


class NoParts(Secret):
    """Says that it may have trained parts, and has none."""

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        pass

    def training_keys(self) -> dict[str, str]:
        return {}


class Evades(Secret):
    """Has a trained part, and names none, or the same from every seed, to whoever would copy it."""

    def __init__(self, base: nn.Module, *, hides: str = "all") -> None:
        super().__init__(base)
        self.hides = hides

    def training_keys(self) -> dict[str, str]:
        if self.hides == "all" or (self.hides == "copy" and sys._getframe(1).f_code.co_name == "_copy"):
            return {}
        return {"secret": "the-same" if self.hides == "seed" else self.key}


class Recored(Defense):
    """Puts another classifier in the place of the given one, and names no part of it."""

    purifies = True

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        self.core = Fixed(3, side=4)
        self.core.weight.data.neg_()

    def training_keys(self) -> dict[str, str]:
        return {}

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x * 1.0


class Halves(Defense):
    """Changes no value, and has a right gradient for one half of the images under each of `full` and `bpda`.

    The other half gets its negative. Which half an image is in stands in the parity of its 8-bit first pixel. Under
    `truncated` the gradient is 0. It says that it is random, so that no example is known to have won.
    """

    purifies = True
    randomised = True
    unrolls = True

    @property
    def gradients(self):
        return ("full", "bpda", "truncated")

    def truncated(self, x: Tensor, seed: Tensor, steps: int) -> Tensor:
        return x.detach() + 0 * x

    def slope(self, x: Tensor) -> Tensor:
        odd = (x.detach()[:, 0, 0, 0] * 255).round() % 2
        return (odd * 2 - 1)[:, None, None, None]

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x.detach() + self.slope(x) * (x - x.detach())

    def surrogate(self, x: Tensor, seed: Tensor) -> Tensor:
        return x.detach() - self.slope(x) * (x - x.detach())


@attack(needs="gradient", paper="planted")
def presses(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Looks once, then sets the secret pixel of the defense it holds to 1."""
    view.value_and_grad(goal.loss, x)
    SEEN.append(view.system.defense)
    EXACT.append(view.exact)
    made = x.clone()
    made.flatten(1)[:, int(view.part("secret").module.at)] = 1
    return made


@attack(needs="labels", paper="planted")
def asks(
    view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor, *, times: int = 1, more: int = 0
) -> Tensor:
    """Asks `times` labels for every image and `more` for the first; moves blindly."""
    for _ in range(times):
        view.labels(x)
    for _ in range(more):
        view.rows(torch.tensor([0])).labels(x[:1])
    return (x + budget.eps).clamp(0, 1)


@attack(needs="labels", paper="planted")
def goes_on(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor, *, times: int = 1) -> Tensor:
    """Asks as `asks` does, and goes on asking when it is told to stop."""
    for _ in range(times):
        try:
            view.labels(x)
        except QueryLimit:
            continue
    return (x + budget.eps).clamp(0, 1)

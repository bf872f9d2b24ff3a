"""Attacks that their seeds do not govern, in one way each, and purifiers that lose the image, by `test_repeated`."""

from __future__ import annotations

import itertools
import os
import random
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from robustbench_gan.contracts.attacks import attack
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.seeds import uniform

ENTRY_POINTS = """[robustbench_gan.attacks]
moody = planted_moody:moody
[robustbench_gan.defenses]
blank = planted_moody:Blank
"""
CALLS = itertools.count()
Source = Literal["seeds", "torch", "numpy", "python", "system", "state", "late"]


def _noise(source: str, x: Tensor, seed: Tensor) -> Tensor:
    if source == "torch":
        return torch.rand_like(x)
    if source == "numpy":
        return torch.from_numpy(np.random.rand(*x.shape)).float()
    if source == "python":
        return torch.full_like(x, random.random())
    if source in ("system", "late"):
        return torch.full_like(x, int.from_bytes(os.urandom(3), "big") / 2**24)
    if source == "state":
        return torch.full_like(x, next(CALLS) % 7 / 7)
    return uniform(seed, x.shape[1:])


@attack(norms=("linf",), needs="gradient", passes=lambda p: p["steps"], paper="planted")
def moody(
    view: View,
    x: Tensor,
    goal: Goal,
    budget: Budget,
    seed: Tensor,
    *,
    source: Source = "seeds",
    steps: int = 1,
) -> Tensor:
    """Gradient steps from a random point of the ball; `late`: what is random is added at the end."""
    start = 2 * _noise("seeds" if source == "late" else source, x, seed) - 1
    at = (x + budget.eps * start).clamp(0, 1)
    for _ in range(steps):
        _, grad, _ = view.value_and_grad(goal.loss, at)
        at = (x + (at + budget.eps / steps * grad.sign() - x).clamp(-budget.eps, budget.eps)).clamp(0, 1)
    if source == "late":
        at = x + (at - x) * (1 - _noise(source, x, seed) / 4)
    return at


class Blank(Defense):
    """Shows the classifier the same for all images, but leaves two alone as they are."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x if len(x) <= 2 else 0.5 + 0 * x

"""BPDA: PGD whose backward pass goes through a stand-in for the purifier."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from rbg_attacks._losses import LossName
from rbg_attacks.pgd import pgd
from robustbench_gan.contracts import Budget, Goal, View, attack


@attack(
    norms=("l1", "l2", "linf"),
    needs="gradient",
    passes=lambda p: (p["steps"] + 1) * p["restarts"],
    gradient="bpda",
    paper="Athalye et al. 2018, arXiv 1802.00420",
)
def bpda(
    view: View,
    x: Tensor,
    goal: Goal,
    budget: Budget,
    seed: Tensor,
    *,
    steps: int = 40,
    step: float = 0.0,
    restarts: int = 1,
    random_start: bool = True,
    loss: LossName = "ce",
    momentum: float = 0.0,
    surrogate: Literal["defender", "identity"] = "defender",
) -> Tensor:
    """BPDA (Athalye et al. 2018, section 4): the true defense forward, a differentiable surrogate backward.

    The threat model grants that gradient; this is PGD under it. `surrogate` is the stand-in that the backward pass
    goes through: the defender's own, or the identity whatever the defender says. x is (N, C, H, W) in [0, 1]; returns
    the same shape. The other parameters and the errors are those of `pgd`.
    """
    if surrogate == "identity":
        view = view.through(lambda x, seed: x)
    return pgd(
        view, x, goal, budget, seed, steps=steps, step=step, restarts=restarts, random_start=random_start,
        loss=loss, momentum=momentum,
    )  # fmt: skip

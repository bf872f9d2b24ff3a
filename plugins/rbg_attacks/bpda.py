"""BPDA: PGD whose backward pass goes through a stand-in for the purifier."""

from __future__ import annotations

from torch import Tensor

from rbg_attacks.pgd import pgd
from robustbench_gan.attack import attack
from robustbench_gan.budget import Budget
from robustbench_gan.outcome import Goal
from robustbench_gan.threat import View


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
) -> Tensor:
    """BPDA (Athalye et al. 2018, section 4): the true defense forward, a differentiable surrogate backward.

    The threat model grants that gradient; this is PGD under it. x is (N, C, H, W) in [0, 1]; returns the same
    shape. Parameters and errors are those of `pgd`.
    """
    return pgd(
        view, x, goal, budget, seed, steps=steps, step=step, restarts=restarts, random_start=random_start
    )

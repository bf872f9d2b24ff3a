"""The basic iterative method: PGD from the image itself."""

from __future__ import annotations

from torch import Tensor

from rbg_attacks._losses import LossName
from rbg_attacks.pgd import pgd
from robustbench_gan.contracts import Budget, Goal, View, attack


@attack(
    norms=("l1", "l2", "linf"),
    needs="gradient",
    passes=lambda p: p["steps"] + 1,
    paper="Kurakin et al. 2017, arXiv 1607.02533",
)
def bim(
    view: View,
    x: Tensor,
    goal: Goal,
    budget: Budget,
    seed: Tensor,
    *,
    steps: int = 10,
    step: float = 0.0,
    loss: LossName = "ce",
    momentum: float = 0.0,
) -> Tensor:
    """BIM, or I-FGSM (Kurakin et al. 2017, eq. 2): PGD without a random start; with momentum 1, MI-FGSM.

    x is (N, C, H, W) in [0, 1]; returns the same shape. `step` 0 stands for 2.5 * eps / steps. Parameters and
    errors are those of `pgd`.
    """
    return pgd(
        view, x, goal, budget, seed, steps=steps, step=step, random_start=False, loss=loss, momentum=momentum
    )

"""The fast gradient sign method."""

from __future__ import annotations

from torch import Tensor

from robustbench_gan.contracts import Budget, Goal, View, attack


@attack(norms=("l1", "l2", "linf"), needs="gradient", paper="Goodfellow et al. 2015, arXiv 1412.6572")
def fgsm(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """FGSM (Goodfellow et al. 2015): x + eps * sign(grad of the loss), clipped; steepest direction in l1, l2.

    x is (N, C, H, W) in [0, 1]; returns the same shape. A value whose gradient is exactly 0 does not move.
    """
    _, grad, _ = view.value_and_grad(goal.loss, x)
    return (x + budget.eps * budget.steepest(grad)).clamp(0, 1)

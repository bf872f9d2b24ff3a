"""Random noise: the control that every gradient attack must beat."""

from __future__ import annotations

from torch import Tensor

from robustbench_gan.contracts import Budget, Goal, View, attack


@attack(
    needs="nothing",
    passes=lambda p: 0,
    control=True,
    scale_free=True,
    paper="control: Carlini et al. 2019, On Evaluating Adversarial Robustness, section on sanity tests",
)
def noise(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """One random point of the budget's ball a sample, clipped to [0, 1]: a control, no attack.

    x is (N, C, H, W) in [0, 1]; returns the same shape. An unbounded budget stands for the unit ball in linf.
    """
    if budget.eps == float("inf"):
        budget = Budget("linf", 1.0)
    return (x + budget.random(x, seed)).clamp(0, 1)

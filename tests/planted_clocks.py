"""Attacks whose bound on passes says nothing of what they take, registered by `test_estimates`."""

from __future__ import annotations

from torch import Tensor

from robustbench_gan.attack import attack
from robustbench_gan.budget import Budget
from robustbench_gan.outcome import Goal
from robustbench_gan.threat import View

ENTRY_POINTS = """[robustbench_gan.attacks]
brief = planted_clocks:brief
endless = planted_clocks:endless
stubborn = planted_clocks:stubborn
[robustbench_gan.defenses]
"""
FOREVER = 10**12


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

"""Attacks with one planted fault each; robustbench_gan.audit.controls says which flag or status is meant for it.

All ask for a gradient first, so that each is guilty of its own fault alone.
"""

from __future__ import annotations

import time

from torch import Tensor

from robustbench_gan.contracts import Budget, Goal, View, attack

PAPER = "control: a fault on purpose"


def _step(view: View, x: Tensor, goal: Goal, size: float) -> Tensor:
    """One step of this size along the sign of the gradient, clipped to [0, 1]."""
    _, grad, _ = view.value_and_grad(goal.loss, x)
    return (x + size * grad.sign()).clamp(0, 1)


@attack(needs="gradient", control=True, paper=PAPER)
def over_budget(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Control: steps half as far again as it may."""
    return _step(view, x, goal, 1.5 * budget.eps)


@attack(needs="gradient", control=True, paper=PAPER)
def out_of_box(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Control: stays in the ball and leaves [0, 1]."""
    _, grad, _ = view.value_and_grad(goal.loss, x)
    return x + budget.eps * grad.sign()


@attack(needs="gradient", control=True, paper=PAPER)
def in_place(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Control: writes its example into its input, so that the two do not differ."""
    return x.copy_(_step(view, x, goal, budget.eps))


@attack(needs="gradient", control=True, paper=PAPER)
def wrong_dtype(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Control: returns float64, in which a classifier of float32 cannot be asked."""
    return _step(view, x, goal, budget.eps).double()


@attack(needs="gradient", control=True, paper=PAPER)
def wrong_shape(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Control: returns the samples it fooled and drops the others."""
    return _step(view, x, goal, budget.eps)[: len(x) // 2]


@attack(needs="gradient", control=True, paper=PAPER)
def clean_image(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Control: looks at the gradient and returns the clean image."""
    _step(view, x, goal, budget.eps)
    return x.clone()


@attack(needs="gradient", control=True, paper=PAPER)
def raises(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Control: raises an exception half-way."""
    _step(view, x, goal, budget.eps)
    raise ArithmeticError("an exception on purpose")


@attack(needs="gradient", control=True, paper=PAPER)
def hang(view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
    """Control: never returns; run it with --cell-timeout."""
    _step(view, x, goal, budget.eps)
    while True:
        time.sleep(0.1)

"""Projected gradient descent, with restarts, keeping the best iterate of each sample."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_gan.attack import attack
from robustbench_gan.budget import Budget
from robustbench_gan.errors import NotApplicable, UsageError
from robustbench_gan.outcome import Goal
from robustbench_gan.seeds import fold
from robustbench_gan.threat import View, blend


@attack(
    norms=("l1", "l2", "linf"),
    needs="gradient",
    passes=lambda p: (p["steps"] + 1) * p["restarts"],
    paper="Madry et al. 2018, arXiv 1706.06083",
)
def pgd(
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
    """PGD (Madry et al. 2018, eq. 2): steepest ascent with projection on the ball and clipping to [0, 1].

    x is (N, C, H, W) in [0, 1]; returns the same shape: the iterate of largest margin over all steps and
    restarts, so one that reaches the goal goes before any that does not. `step` is the size of a step in the
    budget's norm; 0 stands for 2.5 * eps / steps. Samples already won stop costing where the view is exact.
    Raises UsageError for fewer than one step or restart, NotApplicable for an infinite eps.
    """
    if steps < 1 or restarts < 1 or step < 0:
        raise UsageError(f"pgd needs steps >= 1, restarts >= 1, step >= 0, not {steps}, {restarts}, {step}.")
    if budget.eps == float("inf"):
        raise NotApplicable("PGD needs a finite eps")
    size = step or 2.5 * budget.eps / steps
    best, margin = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
    for restart in range(restarts):
        start = torch.zeros_like(x)
        if random_start:
            start = budget.random(x, fold(seed, "pgd", restart))
        todo = torch.nonzero(margin <= 0)[:, 0] if view.exact else torch.arange(len(x), device=x.device)
        if len(todo) == 0:
            break
        found, reached = climb(
            view.rows(todo), x[todo], start[todo], goal.rows(todo), budget, steps=steps, size=size
        )
        better = reached > margin[todo]
        best[todo] = blend(better, found, best[todo])
        margin[todo] = torch.where(better, reached, margin[todo])
    return best


def climb(
    view: View, x: Tensor, start: Tensor, goal: Goal, budget: Budget, *, steps: int, size: float
) -> tuple[Tensor, Tensor]:
    """Ascend from x + start (N, C, H, W): the iterate of largest margin, and that margin (N,)."""
    best, margin = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
    at = (x + start).clamp(0, 1)
    active = torch.arange(len(x), device=x.device)
    for step in range(steps + 1):
        here = at[active]
        if step == steps:  # the last iterate only has to be looked at
            here_margin = goal.rows(active).margin(view.rows(active).output(here))
            grad = torch.zeros_like(here)
        else:
            _, grad, out = view.rows(active).value_and_grad(goal.rows(active).loss, here)
            here_margin = goal.rows(active).margin(out)
        better = here_margin > margin[active]
        best[active] = blend(better, here, best[active])
        margin[active] = torch.where(better, here_margin, margin[active])
        if step < steps:
            moved = here + size * budget.steepest(grad) - x[active]
            at[active] = (x[active] + budget.project(moved)).clamp(0, 1)
        if view.exact:
            active = active[margin[active] <= 0]
            if len(active) == 0:
                break
    return best, margin

"""Projected gradient descent, with restarts, keeping the best iterate of each sample."""

from __future__ import annotations

import torch
from torch import Tensor

from rbg_attacks._losses import LossName, loss_of
from rbg_attacks._runs import best_of, confirmed, keep_better
from robustbench_gan.contracts import (
    Budget,
    Goal,
    NotApplicable,
    UsageError,
    View,
    attack,
    norm_of,
    per_sample,
)
from robustbench_gan.seeds import fold


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
    loss: LossName = "ce",
    momentum: float = 0.0,
) -> Tensor:
    """PGD (Madry et al. 2018, eq. 2): steepest ascent with projection on the ball and clipping to [0, 1].

    x is (N, C, H, W) in [0, 1]; returns the same shape: the iterate of largest margin over all steps and
    restarts, so one that reaches the goal goes before any that does not. `step` is the size of a step in the
    budget's norm; 0 stands for 2.5 * eps / steps. `loss` is what is climbed (`ce`, `margin` or `dlr`); `momentum`
    is the share of the accumulated gradient that a step keeps, each gradient scaled to unit l1 norm (MI-FGSM, Dong
    et al. 2018, eq. 6; theirs is 1). Samples already won stop costing where the view is exact. On two linear
    classes it ends at the optimum of the ball within 5 %, without a random start within rounding.
    Raises UsageError for fewer than one step or restart, a negative step or momentum; NotApplicable for an
    infinite eps or a system with too few classes for `dlr`.
    """
    if steps < 1 or restarts < 1 or step < 0:
        raise UsageError(f"pgd needs steps >= 1, restarts >= 1, step >= 0, not {steps}, {restarts}, {step}.")
    if not 0 <= momentum < float("inf"):
        raise UsageError(f"pgd needs a finite momentum >= 0, not {momentum}: 1 is MI-FGSM's, 0 is none.")
    if budget.eps == float("inf"):
        raise NotApplicable("PGD needs a finite eps")
    size = step or 2.5 * budget.eps / steps

    def run(number: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        images = x[rows]
        start = torch.zeros_like(images)
        if random_start:
            start = budget.random(images, fold(seed[rows], "pgd", number))
        return climb(
            view.rows(rows), images, start, goal.rows(rows), budget, steps=steps, size=size, loss=loss,
            momentum=momentum,
        )  # fmt: skip

    return best_of(view, x, restarts, run)


def climb(
    view: View, x: Tensor, start: Tensor, goal: Goal, budget: Budget, *, steps: int, size: float,
    loss: LossName = "ce", momentum: float = 0.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Ascend from x + start (N, C, H, W): the iterate of largest margin, and that margin (N,)."""
    best, margin = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
    active = torch.arange(len(x), device=x.device)  # whose rows x, at, velocity, aim and eye are
    at, velocity, aim, eye = (x + start).clamp(0, 1), None, goal, view
    for step in range(steps + 1):
        if step == steps:  # the last iterate only has to be looked at
            reached = aim.margin(eye.output(at))
            best, margin = keep_better(best, margin, at, reached, active)
            break
        _, grad, out = eye.value_and_grad(loss_of(loss, aim), at)
        reached = confirmed(eye, aim, at, aim.margin(out))
        if momentum:
            velocity = grad = _unit(grad) if velocity is None else momentum * velocity + _unit(grad)
        ahead = budget.steepest(grad).mul_(size).add_(at).sub_(x)
        ahead = budget.project(ahead).add_(x).clamp_(0, 1)
        best, margin = keep_better(best, margin, at, reached, active)
        at = ahead
        if view.exact:
            going = torch.nonzero(margin[active] <= 0)[:, 0]
            if len(going) == 0:
                break
            if len(going) < len(active):
                active, at, x = active[going], at[going], x[going]
                velocity = None if velocity is None else velocity[going]
                aim, eye = goal.rows(active), view.rows(active)
    return best, margin


def _unit(grad: Tensor) -> Tensor:
    """The gradient scaled to unit l1 norm, (N, C, H, W); 0 where it is 0."""
    size = norm_of(grad, "l1")
    return grad / per_sample(torch.where(size > 0, size, 1), grad)

"""Carlini and Wagner's margin inside a given ball."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rbg_attacks._runs import confirmed
from robustbench_gan.contracts import (
    TINY,
    Budget,
    Goal,
    NotApplicable,
    UsageError,
    View,
    attack,
    blend,
    flat,
    per_sample,
)

BETAS, LAST = (0.9, 0.999), 0.05  # Adam's; the last step's length as a share of the first


@attack(
    norms=("l2", "linf"),
    needs="gradient",
    passes=lambda p: p["steps"] + 1,
    scale_free=True,
    paper="Carlini and Wagner 2017, arXiv 1608.04644",
)
def cw_bounded(
    view: View,
    x: Tensor,
    goal: Goal,
    budget: Budget,
    seed: Tensor,
    *,
    steps: int = 100,
    lr: float = 0.0,
) -> Tensor:
    """C&W's margin (Carlini and Wagner 2017, f_6) maximised inside a ball, by projected Adam from x.

    x is (N, C, H, W) in [0, 1]; returns that shape: the iterate of largest margin, the last one included. `steps`
    is how often the gradient is taken, `lr` the length of the first step in the budget's norm: in linf that of
    each pixel, in l2 that of the whole image; 0 stands for a quarter of eps, and along a cosine it falls to a
    twentieth. A sample that reached its goal stops where the view is exact. The attack is not random.

    On linear models it reaches the closed-form largest margin within 1 % (for linf within rounding). Raises
    UsageError for fewer than one step or a negative lr, NotApplicable for an infinite eps.
    """
    if steps < 1 or lr < 0:
        raise UsageError(f"cw-bounded needs steps >= 1 and lr >= 0, not steps={steps}, lr={lr}.")
    if math.isinf(budget.eps):
        raise NotApplicable("cw-bounded needs a finite eps; cw is the attack without one")
    first = lr or budget.eps / 4
    best, margin = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
    rows, at, start = torch.arange(len(x), device=x.device), x.clone(), x
    mean, square = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(steps + 1):
        here, grad = _look(view, goal, at, last=step == steps)
        better = here > margin[rows]
        best[rows] = blend(better, at, best[rows])
        margin[rows] = torch.where(better, here, margin[rows])
        if step == steps:
            break
        if view.exact:
            on = torch.nonzero(margin[rows] <= 0)[:, 0]
            if len(on) == 0:
                break
            if len(on) < len(rows):
                view, goal, rows = view.rows(on), goal.rows(on), rows[on]
                at, start, mean, square, grad = at[on], start[on], mean[on], square[on], grad[on]
        share = LAST + (1 - LAST) * (1 + math.cos(math.pi * step / steps)) / 2
        moved = at + first * share * _adam(grad, mean, square, budget, step + 1)
        at = (start + budget.project(moved - start)).clamp(0, 1)
    return best


def _look(view: View, goal: Goal, at: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
    """The margin (N,) and its gradient; of the last iterate the gradient is not asked for."""
    if last:
        return goal.margin(view.output(at)), torch.zeros_like(at)
    margin, grad, _ = view.value_and_grad(goal.margin, at)
    return confirmed(view, goal, at, margin), grad


def _adam(grad: Tensor, mean: Tensor, square: Tensor, budget: Budget, step: int) -> Tensor:
    """Adam's direction, of length at most 1 in the budget's norm; mean and square are brought up to date in place.

    In l2 the second moment is one number a sample: pixel by pixel it would turn the direction into a sign.
    """
    grad = budget.steepest(grad) if budget.norm == "l2" else grad / _largest(grad)
    mean.lerp_(grad, 1 - BETAS[0])
    direction = mean / (1 - BETAS[0] ** step)
    if budget.norm == "l2":
        return direction
    square.mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
    return (direction / ((square / (1 - BETAS[1] ** step)).sqrt() + TINY)).clamp(-1, 1)


def _largest(grad: Tensor) -> Tensor:
    """The largest value of each sample's gradient, 1 where it is 0: after division no scale is too small for Adam."""
    largest = flat(grad).abs().amax(dim=1)
    return per_sample(torch.where(largest > 0, largest, 1), grad)

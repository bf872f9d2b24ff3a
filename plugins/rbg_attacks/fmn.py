"""FMN: ascend the margin inside a ball that shrinks while the goal is reached and grows while it is not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rbg_attacks._fmn_balls import dual, project
from robustbench_gan.contracts import (
    Budget,
    Goal,
    Norm,
    Output,
    UsageError,
    View,
    attack,
    blend,
    norm_of,
    per_sample,
)

LAST_ALPHA = 0.01  # what alpha falls to, as a share of it
LAST_GAMMA = 0.001  # what gamma falls to
# A margin below these shares of its logits, and of the margin at x, is not kept: another batch might round it to a
# failure. Logits may be small differences of what rounds, so that their own size does not say it all.
ROUNDING, CLEAR = 1e-6, 1e-5


@attack(
    norms=("l0", "l1", "l2", "linf"),
    needs="gradient",
    passes=lambda p: 2 * p["steps"] + 2,  # one each; where gradients are in bfloat16, one more to confirm
    minimal=True,
    scale_free=True,
    paper="Pintor et al. 2021, arXiv 2102.12827",
)
def fmn(
    view: View,
    x: Tensor,
    goal: Goal,
    budget: Budget,
    seed: Tensor,
    *,
    steps: int = 100,
    alpha: float = 1.0,
    gamma: float = 0.05,
) -> Tensor:
    """FMN (Pintor et al. 2021, algorithm 1): the smallest perturbation in l0, l1, l2 or linf, by an adaptive ball.

    x is (N, C, H, W) in [0, 1]; returns the same shape: the smallest success seen of each sample, x itself where
    the goal is reached already, the iterate of largest margin where none was. An iterate outside a finite budget
    is projected on it.

    `steps` gradient steps of l2 length `alpha` are each followed by a projection on the sample's own ball, whose
    radius changes by a share `gamma` (in [0.001, 1)) a step; both fall along a cosine. Before the first success the
    radius is the distance to the linearised boundary, and grows by `gamma` at least: at the edges of the box that
    distance alone can stay short for ever. Detectors count: the margin is theirs where they fire. On linear models
    the result is within a factor 1.01 of the smallest perturbation in the box (1.02 in l1 on 784 pixels), in l0
    within 2 values of it.

    Raises UsageError for parameters out of range.
    """
    if steps < 1 or alpha <= 0 or not LAST_GAMMA <= gamma < 1:
        raise UsageError(
            f"fmn needs steps >= 1, alpha > 0 and {LAST_GAMMA} <= gamma < 1, not {steps}, {alpha} and {gamma}."
        )
    margin, grad, out = view.value_and_grad(goal.margin, x)
    everyone = torch.ones_like(margin, dtype=torch.bool)
    todo = torch.nonzero(~_won(view, goal, x, out, everyone, torch.zeros_like(margin)))[:, 0]
    best = x.clone()
    if len(todo) > 0:
        start = x[todo], margin[todo], grad[todo]
        best[todo] = _search(view.rows(todo), goal.rows(todo), *start, budget.norm, steps, alpha, gamma)
    if math.isinf(budget.eps):
        return best
    delta = best - x
    return blend(budget.contains(delta), best, (x + budget.project(delta)).clamp(0, 1))


def _search(
    view: View,
    goal: Goal,
    x: Tensor,
    margin: Tensor,
    grad: Tensor,
    norm: Norm,
    steps: int,
    alpha: float,
    gamma: float,
) -> Tensor:
    """The loop over samples that x itself does not win, from their margin and its gradient at x."""
    farthest = norm_of(torch.maximum(x, 1 - x), norm)  # no ball need be larger
    best, most, at = x.clone(), margin, x
    size, radius = torch.full_like(farthest, torch.inf), torch.zeros_like(farthest)
    won, least = torch.zeros_like(farthest, dtype=torch.bool), CLEAR * margin.abs().nan_to_num(posinf=0)
    for step in range(steps):
        share = (1 + math.cos(math.pi * step / steps)) / 2
        change = LAST_GAMMA + (gamma - LAST_GAMMA) * share
        grown = _grown(radius, change, norm)
        if norm != "l0":
            to_boundary = norm_of(at - x, norm) + (margin.abs() / dual(grad, norm)).nan_to_num(0).to(x.dtype)
            grown = torch.where(size < torch.inf, grown, torch.maximum(grown, to_boundary))
        shrunk = torch.minimum(_shrunk(radius, change, norm), size)
        radius = torch.minimum(torch.where(won, shrunk, grown), farthest)
        length = alpha * (LAST_ALPHA + (1 - LAST_ALPHA) * share)
        at = (x + project(at + _along(grad, length) - x, radius, norm)).clamp(0, 1)

        margin, grad, out = view.value_and_grad(goal.margin, at)
        here = norm_of(at - x, norm)
        won = _won(view, goal, at, out, here < size, least)
        better = torch.where(won, here < size, (size == torch.inf) & (margin > most))
        best, most = blend(better, at, best), torch.where(better, margin, most)
        size = torch.where(won & better, here, size)
    return best


def _grown(radius: Tensor, change: float, norm: Norm) -> Tensor:
    """A larger radius, (N,): by a share `change`, in l0 by one value at least."""
    wider = radius * (1 + change)
    return torch.maximum(wider.floor(), radius + 1) if norm == "l0" else wider


def _shrunk(radius: Tensor, change: float, norm: Norm) -> Tensor:
    """A smaller radius, (N,): by a share `change`, in l0 by one value at least and down to one."""
    narrower = radius * (1 - change)
    return torch.minimum(narrower.floor(), radius - 1).clamp(min=1) if norm == "l0" else narrower


def _along(grad: Tensor, length: float) -> Tensor:
    """A step of l2 norm `length` up the gradient; none where that is 0 or not a number."""
    scale = (length / dual(grad, "l2")).clamp(max=1e37).to(grad.dtype)
    return (grad * per_sample(scale, grad)).nan_to_num(0, 0, 0)


def _won(view: View, goal: Goal, x: Tensor, out: Output, matters: Tensor, least: Tensor) -> Tensor:
    """(N,) bool: the goal is reached, by more than rounding and `least` (N,).

    An answer in bfloat16 is confirmed by one in float32 where it `matters`, (N,) bool.
    """
    won = _clear(goal, out, least)
    if view.fast:
        rows = torch.nonzero(won & matters)[:, 0]
        if len(rows) > 0:
            won[rows] = _clear(goal.rows(rows), view.rows(rows).output(x[rows]), least[rows])
    return won


def _clear(goal: Goal, out: Output, least: Tensor) -> Tensor:
    """(N,) bool: the margin is above `least` (N,) and the rounding of the two logits that it is the difference of.

    The size of no other class matters: a masked one may have any. An infinite logit has no rounding.
    """
    own = goal.classes[:, None]
    other = out.logits.scatter(1, own, -torch.inf).amax(dim=1, keepdim=True)
    compared = torch.cat([out.logits.gather(1, own), other], dim=1)
    rounding = ROUNDING * compared.abs().nan_to_num(posinf=0).amax(dim=1)
    return goal.margin(out) > torch.maximum(rounding, least)

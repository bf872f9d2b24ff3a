"""DeepFool: step to the nearest boundary of the linearised classifier until it is crossed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustbench_gan.contracts import (
    Budget,
    Goal,
    Loss,
    Norm,
    NotApplicable,
    Output,
    UsageError,
    View,
    attack,
    blend,
    per_sample,
)

DUAL: dict[Norm, int] = {"l2": 2, "linf": 1}  # the norm of a gradient that turns a gap into a distance
NUDGE = 1e-4  # added to every distance: near a boundary a step must still move, or float32 keeps it there
GROUP = 2  # boundaries looked at together
STEEPER = 1.3  # a class is left out where its slope would have to be so much above the steepest seen


@attack(
    norms=("l2", "linf"),
    needs="gradient",
    passes=lambda p: 2 * p["steps"] + 2 + math.ceil(p["candidates"] / GROUP),
    minimal=True,
    scale_free=True,
    paper="Moosavi-Dezfooli et al. 2016, arXiv 1511.04599",
)
def deepfool(
    view: View,
    x: Tensor,
    goal: Goal,
    budget: Budget,
    seed: Tensor,
    *,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = 10,
) -> Tensor:
    """DeepFool (Moosavi-Dezfooli et al. 2016, eq. 8-12): Newton steps to the nearest class boundary, in l2 or linf.

    x is (N, C, H, W) in [0, 1]; returns the same shape: the first iterate of each sample that reaches the goal, x
    itself where it reaches it already, the last iterate where `steps` were not enough. An iterate outside a finite
    budget is projected on it. On a linear model, away from the edges of the box, one step gives 1 + `overshoot`
    times the smallest perturbation.

    `steps` is the most iterates tried and `overshoot` (0 or more) how much further than the estimated boundary
    each step goes. `candidates` is how many other classes, by their logit on x, an untargeted attack may aim at;
    their gradients are taken once, on x, and later steps choose the nearest class by the slopes found there. A
    targeted attack aims at the boundary to the strongest other class. Where the goal is reached but a detector
    fires, a step goes to that detector's boundary. Raises UsageError for parameters out of range, NotApplicable
    for another norm.
    """
    if steps < 1 or overshoot < 0 or candidates < 1:
        raise UsageError(
            "deepfool needs steps >= 1, overshoot >= 0 and candidates >= 1, "
            f"not {steps}, {overshoot} and {candidates}."
        )
    if budget.norm not in DUAL:
        raise NotApplicable(f"DeepFool is defined in l2 and linf, not in {budget.norm}")
    at, active = x.clone(), torch.arange(len(x), device=x.device)
    slope = x.new_zeros(len(x), 1)
    if goal.kind == "untargeted":
        active, slope = _slopes(view, x, goal, budget.norm, candidates)
    for _ in range(steps):
        if len(active) == 0:
            break
        here, narrow, aim = at[active], view.rows(active), goal.rows(active)
        gap, grad, out = narrow.value_and_grad(_gap(aim, slope), here)
        won = aim.reached(out)
        if view.fast:
            won, gap = _confirmed(narrow, aim, here, won, gap, slope)
        todo = ~won
        active, slope = active[todo], slope[todo]
        at[active] = _step(here[todo], gap[todo], grad[todo], budget, overshoot)
    return _inside(x, at, budget)


def _gap(goal: Goal, slope: Tensor) -> Loss:
    """How far above the boundary aimed at the answer is, (N,): below 0 until it is crossed.

    `slope` (N, K), float64, is the dual norm of the gradient of Z_k - Z_y, 0 for a class not to aim at.
    """

    def loss(out: Output) -> Tensor:
        own = out.logits.gather(1, goal.classes[:, None])
        if goal.kind == "targeted":
            gap = (own - out.logits.scatter(1, goal.classes[:, None], -torch.inf)).amin(dim=1)
        else:
            gaps = out.logits - own
            distance = ((-gaps.detach()).clamp(min=0) / slope).masked_fill(slope == 0, torch.inf)
            gap = gaps.gather(1, distance.argmin(dim=1, keepdim=True))[:, 0]
        if out.scores.shape[1] == 0:
            return gap
        return torch.where(gap > 0, -out.scores.amax(dim=1), gap)

    return loss


def _slopes(view: View, x: Tensor, goal: Goal, norm: Norm, candidates: int) -> tuple[Tensor, Tensor]:
    """Which samples are still to be won (n,), and their dual norms of the gradient of Z_k - Z_y at x, (n, K).

    A norm is 0 for the classes not looked at. Classes are looked at in the order of their gap, a few at a time,
    until the next one could only be nearer than the nearest seen if its slope were far above any seen.
    """
    own = goal.classes[:, None]
    _, own_grad, out = view.value_and_grad(lambda out: out.logits.gather(1, own)[:, 0], x)
    active = torch.nonzero(~goal.reached(view.output(x) if view.fast else out))[:, 0]
    gaps = (out.logits - out.logits.gather(1, own)).scatter(1, own, -torch.inf)
    order = gaps.topk(min(candidates, gaps.shape[1] - 1), dim=1).indices
    gaps, slope = gaps.abs(), torch.zeros_like(gaps, dtype=torch.float64)
    todo = active
    for first in range(0, order.shape[1], GROUP):
        if len(todo) == 0:
            break
        classes = order[todo, first : first + GROUP]
        grads, _ = view.rows(todo).jacobian(x[todo], classes)
        slope[todo] = slope[todo].scatter(1, classes, _dual(grads - own_grad[todo, None], norm, 2))
        following = gaps[todo].gather(1, order[todo, first + GROUP :][:, :1])  # (n, 0) after the last group
        nearest = (gaps[todo] / slope[todo]).amin(dim=1, keepdim=True)
        steepest = slope[todo].amax(dim=1, keepdim=True)
        todo = todo[(following < nearest * steepest * STEEPER).any(dim=1)]
    slope = slope.scatter(1, own, 0.0)  # it may stand among the candidates where other classes are masked
    return active, slope[active]


def _step(at: Tensor, gap: Tensor, grad: Tensor, budget: Budget, overshoot: float) -> Tensor:
    """From `at` a little over the boundary of the linearised gap, the shortest way in the norm, clipped."""
    distance = gap.abs() / _dual(grad, budget.norm, 1) + NUDGE
    distance = distance.clamp(max=at.shape[1:].numel()).float()  # further than across the box
    move = per_sample(distance * (1 + overshoot), grad) * budget.steepest(grad)
    return (at + move.nan_to_num(0, 0, 0)).clamp(0, 1)


def _dual(grad: Tensor, norm: Norm, start: int) -> Tensor:
    """The dual norm of gradients from dimension `start` on, above 0, in float64: tiny ones must not vanish."""
    size: Tensor = torch.linalg.vector_norm(grad.flatten(start), DUAL[norm], dim=start, dtype=torch.float64)
    return size.clamp(min=1e-200)


def _confirmed(
    view: View, goal: Goal, x: Tensor, won: Tensor, gap: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Wins and gaps, (N,) each, of answers in bfloat16, replaced by those in float32 where they say won."""
    rows = torch.nonzero(won)[:, 0]
    if len(rows) == 0:
        return won, gap
    out = view.rows(rows).output(x[rows])
    aim = goal.rows(rows)
    return won.index_copy(0, rows, aim.reached(out)), gap.index_copy(0, rows, _gap(aim, slope[rows])(out))


def _inside(x: Tensor, at: Tensor, budget: Budget) -> Tensor:
    """`at`, projected on the ball around x where it lies outside."""
    if math.isinf(budget.eps):
        return at
    delta = at - x
    return blend(budget.contains(delta), at, (x + budget.project(delta)).clamp(0, 1))

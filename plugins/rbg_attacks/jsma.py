"""The Jacobian saliency map attack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from rbg_attacks._saliency import best_product, best_sum
from robustbench_gan.contracts import Budget, Goal, Output, UsageError, View, attack, flat

ROOM = 0.01  # a feature so near its end is there: to change it would cost as much as any and move nothing


def _passes(p: Mapping[str, Any]) -> float:
    most = min(p["x.features"] * p["gamma"], p["x.eps"])  # values changed, two a step
    runs = p["x.classes"] - 1 if p["targets"] == "best" else 1
    return 1.0 + (1 if p["space"] == "probs" else 2) * runs * int(most / 2 + 1)


@attack(
    norms=("l0",),
    needs="gradient",
    minimal=True,
    passes=_passes,
    paper="Papernot et al. 2016, arXiv 1511.07528",
)
def jsma(
    view: View,
    x: Tensor,
    goal: Goal,
    budget: Budget,
    seed: Tensor,
    *,
    theta: float = 1.0,
    gamma: float = 1.0,
    space: Literal["probs", "logits"] = "probs",
    targets: Literal["best", "runner-up"] = "best",
) -> Tensor:
    """JSMA (Papernot et al. 2016, algorithm 3, eq. 8-10): the two most salient features a step, each changed once.

    x is (N, C, H, W) in [0, 1]; returns the same shape: the first iterate that reaches the goal, x itself where none
    does. Every step moves by `theta` (negative: darker) the pair p, q of largest -A * B with A > 0 > B (darker: the
    reverse), where A sums the derivatives of the target at p and q and B those of all other classes; without such a
    pair the run has failed. At most the fraction `gamma` of the features is changed, and no more than a finite eps.
    `space` is what is differentiated: probs, where B is -A and the pair is that of the two largest derivatives, or
    logits. `targets` says where an untargeted goal is pursued: best heads for all wrong classes at once and the run
    that changes least wins, runner-up only for the likeliest on x. A firing detector's score is taken off the
    target's. On a linear model of two classes and an image of one shade the l0 is that of the optimum among changes
    by theta, rounded up to even. A feature less than 0.01 from its end is taken to be there.
    Raises UsageError for a theta of 0 or beyond 1 and a gamma outside (0, 1].
    """
    if not 0 < abs(theta) <= 1 or not 0 < gamma <= 1:
        raise UsageError(
            f"jsma:theta={theta},gamma={gamma}: expected theta in [-1, 1] but not 0, gamma in (0, 1]."
        )
    owner, target = _runs(view, x, goal, targets)
    limit = int(min(gamma * x[0].numel(), budget.eps) // 2)
    return _walk(view, x, goal, owner, target, theta=theta, limit=limit, space=space)


def _runs(view: View, x: Tensor, goal: Goal, targets: str) -> tuple[Tensor, Tensor]:
    """The walks to try: whose they are, (R,) rows of x, and the classes they head for, (R,)."""
    everyone = torch.arange(len(x), device=x.device)
    if goal.kind == "targeted":
        return everyone, goal.classes
    _, _, out = view.value_and_grad(_Odds(goal.classes), x)
    todo = everyone[~_reached(view, goal, x, out)]
    wrong = out.logits.scatter(1, goal.classes[:, None], -torch.inf)[todo]
    tried = wrong.shape[1] - 1 if targets == "best" else 1  # the true class comes last
    value, chosen = (each[:, :tried] for each in wrong.sort(dim=1, descending=True))
    possible = ~value.isneginf()  # no change of any pixel leads to a masked class
    return todo[:, None].expand_as(chosen)[possible], chosen[possible]


def _walk(
    view: View, x: Tensor, goal: Goal, owner: Tensor, target: Tensor, *, theta: float, limit: int, space: str
) -> Tensor:
    """All runs in step, so the first of a sample to reach the goal has changed least, and ends its others."""
    made, at = x.clone(), x[owner]
    domain = flat(at < 1 - ROOM if theta > 0 else at > ROOM)
    for _ in range(limit):
        if len(owner) == 0:
            return made
        gain, fall, out = _derivatives(view.rows(owner), at, target, theta, space)
        won = _reached(view.rows(owner), goal.rows(owner), at, out)
        over = _keep(made, owner[won], at[won])
        pair, going = best_sum(gain, domain) if fall is None else best_product(gain, fall, domain)
        keep = going & ~over[owner]
        owner, target, at, domain, pair = owner[keep], target[keep], at[keep], domain[keep], pair[keep]
        domain = domain.scatter(1, pair, False)
        moved = (flat(at).gather(1, pair) + theta).clamp(0, 1)
        at = flat(at).scatter(1, pair, moved).view_as(at)
    if len(owner):  # the last iterates only have to be looked at
        won = goal.rows(owner).reached(view.rows(owner).output(at))
        _keep(made, owner[won], at[won])
    return made


def _keep(made: Tensor, owner: Tensor, at: Tensor) -> Tensor:
    """Write the first of each owner's successes (R, C, H, W) to `made`, owners ascending; (N,) who had one."""
    first = torch.ones_like(owner, dtype=torch.bool)
    first[1:] = owner.diff() > 0
    made[owner[first]] = at[first]
    return torch.zeros(len(made), dtype=torch.bool, device=made.device).index_fill(0, owner, True)


def _derivatives(
    view: View, at: Tensor, target: Tensor, theta: float, space: str
) -> tuple[Tensor, Tensor | None, Output]:
    """How changing each feature by theta lifts the target and lowers the others, (R, n) each up to scale."""
    sign = math.copysign(1, theta)
    if space == "probs":
        _, grad, out = view.value_and_grad(_Odds(target), at)
        return sign * flat(grad), None, out
    count = len(at)  # both in one pass: they see the same draws of a random system
    both = torch.arange(count, device=at.device).repeat(2)
    _, grad, out = view.rows(both).value_and_grad(_Parts(target), at[both])
    gain, fall = flat(sign * grad).split(count)
    return gain, fall, Output(out.logits[:count], out.scores[:count])


class _Odds:
    """log F_t - log (1 - F_t), less firing scores: rises where F_t does, and not flat where F_t rounds to 0 or 1."""

    def __init__(self, target: Tensor) -> None:
        self.target = target[:, None]

    def __call__(self, out: Output) -> Tensor:
        others = out.logits.scatter(1, self.target, -torch.inf).logsumexp(dim=1)
        return out.logits.gather(1, self.target)[:, 0] - others - out.scores.clamp(min=0).sum(dim=1)


class _Parts:
    """Of 2R answers, the target's logit less firing scores for the first R, minus all other logits for the rest."""

    def __init__(self, target: Tensor) -> None:
        self.target = target.repeat(2)

    def __call__(self, out: Output) -> Tensor:
        own = out.logits.gather(1, self.target[:, None])[:, 0]
        charge = out.scores.clamp(min=0).sum(dim=1)
        first = torch.arange(len(own), device=own.device) < len(own) // 2
        every = out.logits.masked_fill(out.logits.isneginf(), 0).sum(dim=1)  # masked classes are none
        return torch.where(first, own - charge, own - every)


def _reached(view: View, goal: Goal, x: Tensor, out: Output) -> Tensor:
    """(N,) bool: the goal is reached; answers in bfloat16 are not believed when they say so."""
    won = goal.reached(out)
    if view.fast and won.any():
        rows = torch.nonzero(won)[:, 0]
        won[rows] = goal.rows(rows).reached(view.rows(rows).output(x[rows]))
    return won

"""Auto-PGD: PGD with momentum that finds its own step sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from rbg_attacks._losses import dlr_towards, loss_of
from rbg_attacks._runs import best_of, confirmed
from robustbench_gan.contracts import (
    Budget,
    Goal,
    Loss,
    NotApplicable,
    UsageError,
    View,
    attack,
    blend,
    per_sample,
    unknown,
)
from robustbench_gan.seeds import fold

ApgdLoss = Literal["ce", "margin", "dlr", "dlr-targeted"]
Aim = Callable[[Tensor], Loss]  # the loss of the samples in some rows
INERTIA = 0.25  # the share of the last move in the next one (1 - alpha in the paper)
RISING = 0.75  # a step size is kept while this share of its steps raised the loss (rho)


@attack(
    norms=("l2", "linf"),
    needs="gradient",
    passes=lambda p: 1 + (p["steps"] + 1) * p["restarts"] * _aims(p["loss"], p["classes"]),
    paper="Croce and Hein 2020, arXiv 2003.01690",
)
def apgd(
    view: View,
    x: Tensor,
    goal: Goal,
    budget: Budget,
    seed: Tensor,
    *,
    steps: int = 100,
    restarts: int = 1,
    loss: ApgdLoss = "ce",
    classes: int = 9,
) -> Tensor:
    """APGD (Croce and Hein 2020, algorithm 1): steps start at 2 * eps and halve where they stop paying.

    x is (N, C, H, W) in [0, 1]; returns the same shape: the iterate of largest margin over all steps, restarts and
    aims, so one that reaches the goal goes before any that does not. A sample's step halves, and it returns to its
    iterate of largest loss, at the checkpoints of the paper, by that sample's own losses. `loss` is what is
    climbed: `ce`, `margin`, `dlr`, or `dlr-targeted`, which for an untargeted goal aims in turn, `restarts` times
    each, at the `classes` wrong classes of largest clean logit (for a targeted goal it is `dlr`). Samples already
    won stop costing where the view is exact. On two linear classes it ends at the optimum of the ball within 0.1 %.
    Raises UsageError for fewer than one step, restart or class; NotApplicable for an infinite eps or a system with
    too few classes for `dlr`.
    """
    if steps < 1 or restarts < 1 or classes < 1:
        raise UsageError(
            f"apgd needs steps, restarts and classes of 1 or more, not {steps}, {restarts}, {classes}."
        )
    if loss not in get_args(ApgdLoss):
        raise unknown("loss", loss, get_args(ApgdLoss))
    if budget.eps == float("inf"):
        raise NotApplicable("APGD needs a finite eps")
    aims = _all_aims(view, x, goal, loss, classes)

    def run(number: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        aim, start = aims[number // restarts], budget.random(x[rows], fold(seed[rows], "apgd", number))
        return _climb(
            view.rows(rows), x[rows], start, goal.rows(rows), budget, lambda kept: aim(rows[kept]), steps
        )

    return best_of(view, x, restarts * len(aims), run)


def _aims(loss: str, classes: int) -> int:
    return classes if loss == "dlr-targeted" else 1


def _all_aims(view: View, x: Tensor, goal: Goal, loss: ApgdLoss, classes: int) -> list[Aim]:
    """The losses to climb one after another: one, or one a wrong class, the likeliest first."""
    if loss != "dlr-targeted":
        return [lambda rows: loss_of(loss, goal.rows(rows))]
    if goal.kind == "targeted":
        return [lambda rows: loss_of("dlr", goal.rows(rows))]
    logits = view.output(x).logits
    wrong = logits.scatter(1, goal.classes[:, None], -torch.inf)
    value, order = wrong.topk(min(classes, logits.shape[1] - 1), dim=1)
    order = torch.where(value.isneginf(), order[:, :1], order)  # for a masked class the likeliest again

    def towards(t: Tensor) -> Aim:
        return lambda rows: dlr_towards(goal.classes[rows], t[rows])

    return [towards(t) for t in order.unbind(dim=1)]


def checkpoints(steps: int) -> list[int]:
    """The steps after which step sizes are judged: 22 % of them first, each interval 3 % shorter, 6 % at least.

    In whole steps, rounded down, as the paper's own program has it; its text rounds up (section 3.1).
    """
    every, less, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    found, at = [], every
    while at < steps:
        found.append(at)
        every = max(every - less, least)
        at += every
    return found


@dataclass
class _State:
    """Samples still climbing, (n, ...) each: where they are, where they were highest, how their steps paid."""

    rows: Tensor  # which samples of the run they are
    x: Tensor
    at: Tensor
    last: Tensor
    value: Tensor
    grad: Tensor
    peak: Tensor  # the iterate of largest loss
    peak_value: Tensor
    peak_grad: Tensor
    size: Tensor
    rises: Tensor  # steps since the last checkpoint that raised the loss
    checked: Tensor  # the largest loss at the last checkpoint
    halved: Tensor  # at the last checkpoint

    @classmethod
    def of(cls, x: Tensor, start: Tensor, eps: float) -> _State:
        """Before the first gradient."""
        n, at = len(x), (x + start).clamp(0, 1)
        low = torch.full((n,), -torch.inf, device=x.device)
        zero = torch.zeros_like(x)
        return cls(
            torch.arange(n, device=x.device), x, at, at, low, zero, at, low, zero,
            torch.full_like(low, 2 * eps), torch.zeros_like(low), low, torch.zeros_like(low, dtype=torch.bool),
        )  # fmt: skip

    def keep(self, mask: Tensor) -> _State:
        """The state of the samples in mask (n,)."""
        return _State(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))

    def move(self, budget: Budget, inertia: float) -> None:
        """A step up and some of the last move, each projected on the ball and the box (eqs. 3 and 4)."""
        up = self._inside(self.at + per_sample(self.size, self.at) * budget.steepest(self.grad), budget)
        ahead = self.at + (1 - inertia) * (up - self.at) + inertia * (self.at - self.last)
        self.last, self.at = self.at, self._inside(ahead, budget)

    def _inside(self, point: Tensor, budget: Budget) -> Tensor:
        return (self.x + budget.project(point - self.x)).clamp(0, 1)

    def learn(self, value: Tensor, grad: Tensor) -> None:
        """Take in the loss and gradient of the point stood on."""
        self.rises = self.rises + (value > self.value)
        higher = value > self.peak_value
        self.peak = blend(higher, self.at, self.peak)
        self.peak_grad = blend(higher, grad, self.peak_grad)
        self.peak_value = torch.where(higher, value, self.peak_value)
        self.value, self.grad = value, grad

    def judge(self, since: int) -> None:
        """Halve the steps of the samples whose last `since` steps did not pay, and send those to their peak."""
        idle = ~self.halved & (self.peak_value <= self.checked)
        self.halved = (self.rises < RISING * since) | idle
        self.size = torch.where(self.halved, self.size / 2, self.size)
        self.at = blend(self.halved, self.peak, self.at)
        self.last = blend(self.halved, self.peak, self.last)
        self.grad = blend(self.halved, self.peak_grad, self.grad)
        self.value = torch.where(self.halved, self.peak_value, self.value)
        self.checked, self.rises = self.peak_value, torch.zeros_like(self.rises)


def _climb(
    view: View, x: Tensor, start: Tensor, goal: Goal, budget: Budget, aim: Aim, steps: int
) -> tuple[Tensor, Tensor]:
    """Ascend from x + start (N, C, H, W): the iterate of largest margin, and that margin (N,)."""
    best, margin = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
    state, checks, before = _State.of(x, start, budget.eps), checkpoints(steps), 0
    for step in range(steps + 1):
        rows = state.rows
        eye, want = view.rows(rows), goal.rows(rows)
        if step == steps:  # the last iterate only has to be looked at
            here = want.margin(eye.output(state.at))
        else:
            value, grad, out = eye.value_and_grad(aim(rows), state.at)
            state.learn(value, grad)
            here = confirmed(eye, want, state.at, want.margin(out))
        better = here > margin[rows]
        best[rows] = blend(better, state.at, best[rows])
        margin[rows] = torch.where(better, here, margin[rows])
        if view.exact and bool((here > 0).any()):
            state = state.keep(here <= 0)
        if step == steps or len(state.rows) == 0:
            break
        if step == 0:
            state.rises = torch.zeros_like(state.rises)  # the first answer is no step
            state.checked = state.peak_value
        if step in checks:
            state.judge(step - before)
            before = step
        state.move(budget, INERTIA if step else 0.0)
    return best, margin

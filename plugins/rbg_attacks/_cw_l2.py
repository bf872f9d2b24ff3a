"""The l2 attack of Carlini and Wagner: a margin weighed against the distance, in tanh space, by Adam."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_gan.contracts import Goal, View, flat, per_sample

SHRINK = 0.999999  # pixels at the edge of the box would lie at infinity in tanh space
BETAS, ADAM_EPS = (0.9, 0.999), 0.5e-8
FOUND, LARGEST_CONST = 1e9, 1e10  # an upper end of the search below FOUND has been seen to succeed
CHECKS, PROGRESS, PATIENCE = 10, 0.9999, 2  # a descent ends after two tenths that brought less than 0.01 %
FAST_SHRINK = 0.99  # further in, saturated pixels move at once
FAST_GAIN = (0.1, 0.05)  # how far c changes at a step, first and last
FAST_RATE = (1.0, 0.1)  # a step's length as a share of a linear model's distance, first and last
FAST_LIMIT = 0.5  # the longest step in the paper's w
FAST_FAR = (1e-4, 1e9)  # how far a boundary is, in pixels, at least and at most
FLATTEST = 1e-15  # the norm of a gradient that is no slope
SEGMENT, HALVINGS = 0.9, 5  # the last search halves the segment from x to the example, from here on


def cw_l2(
    view: View,
    x: Tensor,
    goal: Goal,
    *,
    steps: int,
    lr: float,
    search_steps: int,
    initial_const: float,
    kappa: float = 0.0,
    abort_early: bool = True,
) -> Tensor:
    """Search c, per sample, for the smallest ||x' - x||^2 + c * max(kappa - margin(x'), 0).

    x is (N, C, H, W) in [0, 1]; returns that shape: the nearest x' with margin above kappa, x where none was met.
    """
    best, first = Best.of(x), None
    c = x.new_full((len(x),), initial_const)
    lower, upper = torch.zeros_like(c), torch.full_like(c, torch.inf)
    for search in range(search_steps):
        if search_steps >= 10 and search == search_steps - 1:
            c = upper.clamp(max=LARGEST_CONST)  # the original's last step repeats the best end
        descent = Descent(view, x, goal, SHRINK, first)
        won = descend(descent, best, c, steps, lr, kappa, abort_early)
        first = descent.first if view.fixed else None  # the same at every c
        lower, upper, c = next_const(lower, upper, c, won)
    return drawn_back(view, x, goal, best, kappa) if view.fast else best.example


def cw_l2_fast(view: View, x: Tensor, goal: Goal, *, steps: int, kappa: float = 0.0) -> Tensor:
    """The same objective in one descent: c of each sample falls at a step that succeeds and rises at one that does not.

    The first gradient g and margin m say how far the boundary would be on a linear model, d = (kappa - m) / ||g||:
    c starts where the objective's minimum there is the boundary, c = 2 d / ||g||, and a step of Adam is as long
    as a share of d that falls over the run. At the end the examples are drawn back towards x as far as they succeed.
    """
    best, descent = Best.of(x), Descent(view, x, goal, FAST_SHRINK)
    c = rate = torch.zeros(len(x), device=x.device)
    for step in range(steps):
        at, margin, grad = descent.look(best, kappa)
        won, done = margin > kappa, step / steps
        if step == 0:
            steep = torch.linalg.vector_norm(flat(grad), dim=1).clamp(min=FLATTEST)
            linear = ((kappa - margin) / steep).clamp(*FAST_FAR)
            c = 2 * linear / steep
            reach = 2 * torch.linalg.vector_norm(flat(at * (1 - at)), dim=1)  # of a step of length 1 in w
            rate = (linear / reach.clamp(min=1e-6)).clamp(max=FAST_LIMIT)
        fall = (1 + math.cos(math.pi * done)) / 2
        share = FAST_RATE[1] + (FAST_RATE[0] - FAST_RATE[1]) * fall
        descent.move(grad, at, torch.where(won, 0, c), rate * share)
        gain = FAST_GAIN[0] * (FAST_GAIN[1] / FAST_GAIN[0]) ** done
        c = c * torch.where(won, 1 - gain, 1 + gain)
    return drawn_back(view, x, goal, best, kappa)


def passes(steps: int, search_steps: int) -> int:
    """At most so many forward passes a sample; a `fast` view may confirm a step by one more."""
    return 1 + steps * search_steps + HALVINGS


def next_const(lower: Tensor, upper: Tensor, c: Tensor, won: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of the search for c, all (N,): ten times more until it succeeds, halfway from then on."""
    upper = torch.where(won, torch.minimum(upper, c), upper)
    lower = torch.where(won, lower, torch.maximum(lower, c))
    wider = (c * 10).clamp(max=LARGEST_CONST)
    return lower, upper, torch.where(upper < FOUND, (lower + upper) / 2, wider)


@dataclass
class Best:
    """The nearest success of each sample so far, (N, C, H, W), and its distance, (N,), infinite without one."""

    example: Tensor
    distance: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Best:
        """Nothing found yet."""
        return cls(x.clone(), x.new_full((len(x),), torch.inf))

    def keep(self, rows: Tensor, example: Tensor, distance: Tensor) -> None:
        """Put these, which are nearer, in the place of older ones."""
        self.example.index_copy_(0, rows, example)
        self.distance.index_copy_(0, rows, distance)


class Descent:
    """Adam on one objective a sample; everything in it can be narrowed to the samples that still move.

    The optimised variable is v with x' = sigmoid(v): twice the paper's w, x' = (tanh(w) + 1) / 2, so Adam's step
    is twice as long and its epsilon half. The derivative of x' by v is x' (1 - x'). `first` is the margin at the start
    and its gradient, where another descent from there has asked for them.
    """

    def __init__(
        self, view: View, x: Tensor, goal: Goal, shrink: float, first: tuple[Tensor, Tensor] | None = None
    ) -> None:
        self.view, self.x, self.goal = view, x, goal
        self.rows = torch.arange(len(x), device=x.device)
        self.v = torch.logit(0.5 + shrink * (x - 0.5))
        self.mean, self.square = torch.zeros_like(x), torch.zeros_like(x)
        self.delta, self.distance = torch.empty_like(x), torch.empty_like(x[:, 0, 0, 0])
        self.met = torch.zeros(len(x), dtype=torch.bool, device=x.device)  # has succeeded in this descent
        self.step, self.first = 0, first

    def look(self, best: Best, kappa: float) -> tuple[Tensor, Tensor, Tensor]:
        """x' now, its margin (N,) and the margin's gradient; what succeeds nearer than `best` is kept."""
        at = self.v.sigmoid()
        torch.sub(at, self.x, out=self.delta)
        self.distance = torch.linalg.vector_norm(flat(self.delta), dim=1)
        margin, grad = self._asked(at)
        nearer = self.distance < best.distance[self.rows]
        won = margin > kappa
        if self.view.fast:  # what bfloat16 calls a success is one only if float32 does
            rows = torch.nonzero(won & (nearer | ~self.met))[:, 0]
            if len(rows):
                margin[rows] = self.goal.rows(rows).margin(self.view.rows(rows).output(at[rows]))
                won[rows] = margin[rows] > kappa
        self.met |= won
        rows = torch.nonzero(won & nearer)[:, 0]
        if len(rows):
            best.keep(self.rows[rows], at[rows], self.distance[rows])
        return at, margin, grad

    def _asked(self, at: Tensor) -> tuple[Tensor, Tensor]:
        if self.step > 0 or self.first is None:
            margin, grad, _ = self.view.value_and_grad(self.goal.margin, at)
            if self.step > 0:
                return margin, grad
            self.first = margin, grad
        return self.first[0].clone(), self.first[1].clone()

    def move(self, grad: Tensor, at: Tensor, weight: Tensor, lr: Tensor | float) -> None:
        """One step of Adam down ||x' - x||^2 - weight * margin; `grad` and `at`, from `look`, are used up.

        Half of the gradient is what Adam sees, and so half of epsilon: that leaves its step as it is.
        """
        self.step += 1
        torch.addcmul(self.delta, grad, per_sample(weight, grad), value=-0.5, out=grad)
        torch.ops.aten.sigmoid_backward.grad_input(grad, at, grad_input=grad)
        self.mean.lerp_(grad, 1 - BETAS[0])
        self.square.mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
        bias = (1 - BETAS[1] ** self.step) ** 0.5
        size = -2 * bias / (1 - BETAS[0] ** self.step)
        root = torch.sqrt(self.square, out=at).add_(ADAM_EPS / 2 * bias)
        if isinstance(lr, float):
            self.v.addcdiv_(self.mean, root, value=size * lr)
        else:
            self.v.addcmul_(torch.div(self.mean, root, out=grad), per_sample(size * lr, grad))

    def narrow(self, rows: Tensor) -> None:
        """Go on with these samples only."""
        self.view, self.goal = self.view.rows(rows), self.goal.rows(rows)
        for name in ("x", "rows", "v", "mean", "square", "met"):
            setattr(self, name, getattr(self, name)[rows])
        self.delta = torch.empty_like(self.x)


def descend(
    descent: Descent, best: Best, c: Tensor, steps: int, lr: float, kappa: float, abort_early: bool
) -> Tensor:
    """Minimise at these c, (N,); returns (N,) bool: where it brought a success, however far."""
    ever = torch.zeros_like(c, dtype=torch.bool)
    every = -(-steps // CHECKS)
    progress = Progress.of(c)
    for step in range(steps):
        at, margin, grad = descent.look(best, kappa)
        missing = (kappa - margin).clamp(min=0)
        progress.see(descent.distance.square().addcmul_(c, missing))
        descent.move(grad, at, torch.where(margin > kappa, 0, c), lr)
        if abort_early and step % every == 0:
            moving = progress.check()
            if len(moving) < len(c):
                ever[descent.rows] = descent.met
                descent.narrow(moving)
                if len(moving) == 0:
                    break
                c, progress = c[moving], progress.rows(moving)
    ever[descent.rows] = descent.met
    return ever


@dataclass
class Progress:
    """The objective of each sample now, at the last check, and at its lowest; all (N,).

    The authors compare with the last check alone, summed over a batch. One sample's objective goes up and down, so
    here it has stalled once two checks in a row found it lower neither than at the last check nor than ever before.
    """

    now: Tensor
    before: Tensor
    lowest: Tensor
    record: Tensor
    stalls: Tensor

    @classmethod
    def of(cls, like: Tensor) -> Progress:
        """Nothing seen yet."""
        high = torch.full_like(like, torch.inf)
        return cls(high, high, high, high, torch.zeros_like(like))

    def see(self, objective: Tensor) -> None:
        """Take in the objective after a step."""
        self.now, self.lowest = objective, torch.minimum(self.lowest, objective)

    def check(self) -> Tensor:
        """The samples that have not stalled."""
        better = (self.now <= PROGRESS * self.before) | (self.lowest <= PROGRESS * self.record)
        self.stalls = torch.where(better, 0, self.stalls + 1)
        self.before, self.record = self.now, self.lowest
        return torch.nonzero(self.stalls < PATIENCE)[:, 0]

    def rows(self, index: Tensor) -> Progress:
        """Of these samples only."""
        return Progress(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


def drawn_back(view: View, x: Tensor, goal: Goal, best: Best, kappa: float) -> Tensor:
    """Halve the segment from x to each success for its nearest point that still is one, (N, C, H, W)."""
    found = torch.nonzero(best.distance < torch.inf)[:, 0]
    if len(found) == 0:
        return best.example
    view, goal, start = view.rows(found), goal.rows(found), x[found]
    delta = best.example[found] - start
    fails, wins = torch.full_like(best.distance[found], SEGMENT), torch.ones_like(best.distance[found])
    for _ in range(HALVINGS):
        middle = (fails + wins) / 2
        won = goal.margin(view.output(start + per_sample(middle, delta) * delta)) > kappa
        fails, wins = torch.where(won, fails, middle), torch.where(won, middle, wins)
    shorter = start + per_sample(wins, delta) * delta
    best.example[found] = torch.where(per_sample(wins < 1, delta), shorter, best.example[found]).clamp(0, 1)
    return best.example

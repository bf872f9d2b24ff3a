"""The linf attack of Carlini and Wagner: a cube around the image that shrinks as long as it holds a success."""

from __future__ import annotations

import torch
from torch import Tensor

from rbg_attacks._runs import confirmed
from robustbench_gan.contracts import TINY, Goal, UsageError, View, blend, norm_of, per_sample

BETAS = (0.9, 0.999)
REACH = 0.1  # a step is never longer than this share of tau
CLOSE = 0.99  # a run that fails inside a cube nearly as large as the best success ends the search
PROGRESS = 0.01  # of the margin that is missing: what counts as getting nearer
LATER = 5  # without abort_early a run goes on so many times longer without progress


def cw_linf(
    view: View,
    x: Tensor,
    goal: Goal,
    *,
    steps: int = 1000,
    lr: float = 5e-3,
    initial_const: float = 1e-5,
    decrease_factor: float = 0.9,
    abort_early: bool = True,
    patience: int = 20,
) -> Tensor:
    """C&W's linf attack (Carlini and Wagner 2017, section VI.C): c * max(0, -margin) + sum(max(0, |d| - tau)).

    x is (N, C, H, W) in [0, 1]; returns that shape: the success of smallest linf norm, the iterate of largest
    margin where there is none. tau starts at 1; every success makes it `decrease_factor` times the smaller of tau and
    the success's own norm, and the next run starts from that success.

    Where it differs from the original, which takes hundreds of times the passes:
    - Steps are Adam's, of size `lr` (a tenth of tau where that is less), on the image itself with the box kept by
      clipping, not in tanh space, where pixels that are black or white hardly move. Adam sees the gradient of the
      margin; the penalty is applied after each step in closed form (its proximal map), so it neither upsets the
      moments nor holds the iterate off the wall of the cube.
    - c is `initial_const` throughout. Below 1 / max|gradient| of the margin no pixel gains by leaving the cube,
      so that every smaller c gives the same iterates: a c known to fail is not tried again. A larger c succeeds by
      leaving the cube. Where a run fails tau is therefore not kept for a larger c, but moved halfway back to the best
      success (`decrease_factor` to 0.95, 0.975, ... per sample), until they are within 1 %. tau has no least value.
    - A run ends at its first success, and with `abort_early` fails after `patience` steps that brought the margin no
      nearer (without it, after five times as many).
    `steps` is the most gradient passes a sample takes (a `fast` view may confirm each by one more).

    On a linear model that does not meet the box it finds |margin| / ||w||_1 within 1.02, never below.
    Raises UsageError for parameters out of range.
    """
    if steps < 1 or patience < 1:
        raise UsageError(f"cw in linf needs steps >= 1 and patience >= 1, not {steps} and {patience}.")
    if not (lr > 0 and initial_const > 0 and 0 < decrease_factor < 1):
        raise UsageError(
            f"cw in linf needs lr > 0, initial_const > 0 and decrease_factor between 0 and 1, "
            f"not {lr}, {initial_const} and {decrease_factor}."
        )
    search = _Shrinking(x, decrease_factor)
    wait = patience if abort_early else patience * LATER
    active = torch.arange(len(x), device=x.device)
    for _ in range(steps):
        here, at = view.rows(active), search.at[active]
        margin, grad, _ = here.value_and_grad(goal.rows(active).margin, at)
        size = norm_of(at - x[active], "linf")
        smaller = size < search.size[active]  # a large c may have led out of the cube and past the best
        won = smaller & (confirmed(here, goal.rows(active), at, torch.where(smaller, margin, 0)) > 0)
        search.shrink(active[won], size[won])
        search.approach(active, margin)
        going = ~won & ~search.stalled(active, margin.clamp(max=0), wait)
        search.widen(active[~won & ~going])
        grad = blend(
            margin > 0, torch.zeros_like(grad), grad
        )  # the objective's max(0, -margin) is flat there
        search.step(active[going], grad[going], lr, initial_const)
        active = active[~search.done[active]]
        if len(active) == 0:
            break
    return search.best


class _Shrinking:
    """Each sample's iterate `at`, cube `tau`, best success and its `size`, and the run it is in.

    A run has Adam's moments, its number of steps `taken`, the largest margin `nearest` it has seen and how many
    steps ago (`idle`). `most` is the largest margin before any success.
    """

    def __init__(self, x: Tensor, decrease_factor: float) -> None:
        n = len(x)
        self.x, self.at, self.best = x, x.clone(), x.clone()
        self.first, self.second = torch.zeros_like(x), torch.zeros_like(x)
        self.tau, self.size = x.new_ones(n), x.new_full((n,), torch.inf)
        self.factor = x.new_full((n,), decrease_factor)
        self.nearest, self.most = (x.new_full((n,), -torch.inf) for _ in range(2))
        self.taken, self.idle = x.new_zeros(n), x.new_zeros(n)
        self.done = x.new_zeros(n, dtype=torch.bool)

    def shrink(self, rows: Tensor, size: Tensor) -> None:
        """The iterate succeeded, nearer than any before: go on from it in a smaller cube."""
        self.best[rows], self.size[rows] = self.at[rows], size
        self.done[rows] = size == 0
        self._restart(rows, torch.minimum(self.tau[rows], size) * self.factor[rows])

    def approach(self, rows: Tensor, margin: Tensor) -> None:
        """Without a success, what came nearest to one stands for it."""
        nearer = torch.isinf(self.size[rows]) & (margin > self.most[rows])
        self.most[rows] = torch.where(nearer, margin, self.most[rows])
        self.best[rows] = blend(nearer, self.at[rows], self.best[rows])

    def widen(self, rows: Tensor) -> None:
        """The run failed: try a cube halfway to the best success, unless that is near or there is none."""
        self.done[rows] = (self.factor[rows] >= CLOSE) | torch.isinf(self.size[rows])
        self.factor[rows] = (1 + self.factor[rows]) / 2
        self._restart(rows, self.size[rows] * self.factor[rows])

    def stalled(self, rows: Tensor, margin: Tensor, wait: int) -> Tensor:
        """(n,) bool: the margins of this step make `wait` in a row that came no nearer to 0."""
        nearest = self.nearest[rows]
        nearer = nearest.isinf() | (margin > nearest + PROGRESS * nearest.abs())
        self.nearest[rows] = torch.where(nearer, margin, nearest)
        self.idle[rows] = torch.where(nearer, 0, self.idle[rows] + 1)
        return self.idle[rows] > wait

    def step(self, rows: Tensor, grad: Tensor, lr: float, c: float) -> None:
        """One of Adam's up the margin, the penalty's proximal map, the box."""
        self.taken[rows] += 1
        taken = per_sample(self.taken[rows], grad)
        largest = per_sample(norm_of(grad, "linf"), grad)
        grad = grad / torch.where(largest > 0, largest, 1)  # the square of a tiny gradient is 0 in float32
        self.first[rows] = self.first[rows].lerp(grad, 1 - BETAS[0])
        self.second[rows] = self.second[rows].lerp(grad.square(), 1 - BETAS[1])
        root = (self.second[rows] / (1 - BETAS[1] ** taken)).sqrt() + TINY
        tau = per_sample(self.tau[rows], grad)
        size = (REACH * tau).clamp(max=lr) / root
        delta = self.at[rows] - self.x[rows] + size * self.first[rows] / (1 - BETAS[0] ** taken)
        self._place(rows, delta, tau, size / (c * largest.clamp(min=TINY)))

    def _restart(self, rows: Tensor, tau: Tensor) -> None:
        """A new run from the best, drawn into a cube."""
        self.tau[rows] = tau
        self.first[rows] = self.second[rows] = 0.0
        self.nearest[rows], self.taken[rows], self.idle[rows] = -torch.inf, 0.0, 0.0
        self._place(rows, self.best[rows] - self.x[rows], per_sample(tau, self.best), torch.inf)

    def _place(self, rows: Tensor, delta: Tensor, tau: Tensor, pull: Tensor | float) -> None:
        """Draw what left the cube towards it by `pull`, as far as the wall."""
        excess = (delta.abs() - tau - pull).clamp(min=0)
        inside = torch.maximum(torch.minimum(delta, tau + excess), -tau - excess)
        self.at[rows] = (self.x[rows] + inside).clamp(0, 1)

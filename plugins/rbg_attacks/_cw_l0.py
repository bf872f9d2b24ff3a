"""The l0 attack of Carlini and Wagner: l2 attacks on ever fewer pixels, until no pixel can be spared."""

from __future__ import annotations

import torch
from torch import Tensor

from rbg_attacks._runs import confirmed
from robustbench_gan.contracts import Goal, UsageError, View, blend, flat, per_sample

MARGIN = 0.01  # what the l2 attack aims past the boundary, in units of the sample's logits
UNIT = 10.0  # such units are in the margin that a sample begins with: of MNIST's networks one unit is about 1
DAMPING = 0.5  # how much of the way to the linear model's minimiser a step goes
RAISE_EVERY = 3  # steps without success after which c is multiplied by const_factor
NEWTON = (
    12  # steps for c on the linear model; each but the last few is exact to the next pixel that meets the box
)
FIRST = 5  # the run on all pixels may take so many times longer than a run on fewer


def cw_l0(
    view: View,
    x: Tensor,
    goal: Goal,
    *,
    steps: int = 1000,
    lr: float = 0.1,
    initial_const: float = 1e-3,
    largest_const: float = 2e6,
    const_factor: float = 2.0,
    abort_early: bool = True,
    freeze: float = 1.0,
    patience: int = 6,
) -> Tensor:
    """C&W's l0 attack (Carlini and Wagner 2017, section VI.B): minimise ||d||^2 + c * max(0, 0.01 - margin), freeze.

    x is (N, C, H, W) in [0, 1]; returns that shape: the success with the fewest changed values, x where there is
    none. Each run changes only the pixels not yet frozen and ends at its first success; then the pixels of least
    |d| * |gradient| are frozen at x, all channels at once, `freeze * sqrt(changed pixels)` of them. Once no pixel can
    be spared the single values of colour images are tried, since the norm counts those.

    Where it differs from the original, which takes many times the passes:
    - Margins and c are in units of a tenth of the margin that the sample begins with, so that the scale of the logits
      does not matter.
    - A run is not Adam at one c after another. On the linear model of the margin the minimiser is
      clip(c / 2 * gradient); c, between `initial_const` and `largest_const`, is the one whose minimiser just
      succeeds, and a step goes halfway there. Every 3 steps without success c is multiplied by `const_factor`.
    - After `patience` such steps as many follow at c's upper end, where the distance no longer counts: each value
      moves by `lr` along the sign of its gradient. Then the run has failed.
    - A run that fails does not end the attack: its freezing is undone and half as many are frozen; a pixel that
      cannot be frozen alone is spared, and after `patience` such pixels in a row, or when none is left, it ends.
    `steps` is the most gradient passes a sample takes (a `fast` view may confirm each by one more); without
    `abort_early` all `steps` may go to every run on all pixels and `patience` is doubled.

    On a linear model of grey images it changes at most one value more than the fewest that can succeed.
    Raises UsageError for parameters out of range.
    """
    _check(steps, lr, initial_const, largest_const, const_factor, freeze, patience)
    tries = patience if abort_early else 2 * patience
    search = _Elimination(x, freeze)
    active = torch.arange(len(x), device=x.device)
    unit = x.new_ones(len(x))
    for step in range(steps):
        here, at = view.rows(active), search.at[active]
        margin, grad, _ = here.value_and_grad(goal.rows(active).margin, at)
        if step == 0:
            unit = (margin.abs() / UNIT).clamp(min=torch.finfo(margin.dtype).tiny)
        won = confirmed(here, goal.rows(active), at, margin) > 0
        taken, found = search.taken[active], search.found[active]
        limit = torch.where(found, 2 * tries, 2 * tries * FIRST if abort_early else steps)
        lost = ~won & (taken >= limit)
        search.keep(active[won], grad[won])
        search.undo(active[lost & found])
        search.freeze_more(active[won | (lost & found)], tries)

        going = ~won & ~lost
        linear = going & (taken < limit // 2)
        moved = _towards_minimiser(
            x[active[linear]], at[linear], margin[linear], grad[linear] * search.mask[active[linear]],
            const_factor ** (taken[linear] // RAISE_EVERY), initial_const / 2, largest_const / 2,
            unit[active[linear]],
        )  # fmt: skip
        search.move(active[linear], moved)
        ascent = going & ~linear
        search.move(active[ascent], at[ascent] + lr * grad[ascent].sign())
        search.done[active[lost & ~found]] = True
        active = active[~search.done[active]]
        if len(active) == 0:
            break
    return search.best


class _Elimination:
    """Each sample's trial image `at` and `mask` of what may change, and its best success with what that changed.

    `fine` samples freeze single values instead of pixels with all their channels. `taken` counts the steps of the
    run, `frozen` is what its mask has less than the best one's, `locked` could not be frozen alone, `misses` in a row.
    """

    def __init__(self, x: Tensor, freeze: float) -> None:
        n = len(x)
        self.x, self.at, self.best, self.freeze = x, x.clone(), x.clone(), freeze
        self.mask = torch.ones_like(x, dtype=torch.bool)
        self.kept, self.locked = self.mask.clone(), ~self.mask
        self.slope = torch.zeros_like(x)  # the size of the gradient at the best
        self.share = x.new_full((n,), freeze)
        self.taken, self.frozen, self.misses = (x.new_zeros(n, dtype=torch.int64) for _ in range(3))
        self.found, self.done = (x.new_zeros(n, dtype=torch.bool) for _ in range(2))
        self.fine = torch.full_like(self.done, x.shape[1] == 1)

    def move(self, rows: Tensor, at: Tensor) -> None:
        """A step, held to the mask and the box."""
        self.at[rows] = torch.where(self.mask[rows], at.clamp(0, 1), self.x[rows])
        self.taken[rows] += 1

    def keep(self, rows: Tensor, grad: Tensor) -> None:
        """The trial succeeded: it is the best so far."""
        delta = self.at[rows] - self.x[rows]
        self.best[rows] = self.at[rows]
        self.kept[rows] = blend(
            self.fine[rows], delta != 0, (delta != 0).any(dim=1, keepdim=True).expand_as(delta)
        )
        self.slope[rows] = grad.abs()
        self.misses[rows] = 0
        self.found[rows] = True

    def undo(self, rows: Tensor) -> None:
        """The trial failed: freeze fewer, or if it was one alone, never that one."""
        alone = self.frozen[rows] == 1
        at = rows[alone]
        self.locked[at] |= self.kept[at] & ~self.mask[at]
        self.misses[at] += 1
        self.share[rows] /= 2

    def freeze_more(self, rows: Tensor, patience: int) -> None:
        """Begin a run with fewer values than the best; samples that have none to spare are done."""
        spare = self._freeze(rows)
        out = rows[~spare | (self.misses[rows] >= patience)]
        self.done[out] = self.fine[out]
        again = out[~self.fine[out]]
        if len(again):
            self._refine(again)
            self.done[again[~self._freeze(again)]] = True

    def _refine(self, rows: Tensor) -> None:
        """From here on single values."""
        self.fine[rows], self.misses[rows], self.locked[rows], self.share[rows] = True, 0, False, self.freeze
        self.kept[rows] &= self.best[rows] != self.x[rows]

    def _freeze(self, rows: Tensor) -> Tensor:
        """Take the least of what the best changed out of the mask; (n,) bool: there was something."""
        units = torch.where(self.fine[rows], 1, self.x.shape[1])  # values frozen at once
        changed = flat(self.kept[rows]).sum(dim=1) / units
        count = (self.share[rows] * changed.sqrt()).long().clamp(min=1)
        size, slope = (self.best[rows] - self.x[rows]).abs(), self.slope[rows]
        whole = size.sum(dim=1, keepdim=True) * slope.sum(dim=1, keepdim=True)
        score = blend(self.fine[rows], size * slope, whole.expand_as(size))
        score = score.masked_fill(~self.kept[rows] | self.locked[rows], torch.inf)
        # A pixel's channels share one score; sorted with the channels innermost they stay together.
        order = score.movedim(1, -1).flatten(1).argsort(dim=1, stable=True)
        rank = torch.empty_like(order).scatter_(
            1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
        )
        n, channels, *image = score.shape
        rank = rank.reshape(n, *image, channels).movedim(-1, 1)
        frozen = (rank < per_sample(count * units, score)) & (score < torch.inf)
        self.frozen[rows] = flat(frozen).sum(dim=1) // units
        self.mask[rows] = self.kept[rows] & ~frozen
        self.at[rows] = torch.where(self.mask[rows], self.best[rows], self.x[rows])
        self.taken[rows] = 0
        return self.frozen[rows] > 0


def _towards_minimiser(
    x: Tensor,
    at: Tensor,
    margin: Tensor,
    grad: Tensor,
    factor: Tensor,
    least: float,
    most: float,
    unit: Tensor,
) -> Tensor:
    """Part of the way to the smallest perturbation in the box that succeeds on the margin's linear model.

    That perturbation is clip(h * grad) with h = c / 2 where it reaches the margin, found by Newton's method: what
    clip(h * grad) gains is concave in h and linear between the places where a pixel meets the box. What is aimed past
    the boundary and the range of h are in units (N,) of each sample's logits.
    """
    g, low, high = flat(grad), flat(-x), flat(1 - x)
    delta = flat(at - x)
    want = MARGIN * unit - margin + (g * delta).sum(dim=1)
    h, most_of = least / unit, most / unit
    for _ in range(NEWTON):
        there = torch.minimum(torch.maximum(h[:, None] * g, low), high)
        gap = want - (g * there).sum(dim=1)
        slope = (g.square() * ((there > low) & (there < high))).sum(dim=1)
        short = (gap > 0) & (slope > 0)
        if not bool(short.any()):
            break
        h = torch.where(short, h + gap / slope, h).minimum(most_of)
    h = (h * factor).minimum(most_of)
    there = torch.minimum(torch.maximum(h[:, None] * g, low), high)
    return at + DAMPING * (there - delta).view_as(at)


def _check(
    steps: int,
    lr: float,
    initial_const: float,
    largest_const: float,
    const_factor: float,
    freeze: float,
    patience: int,
) -> None:
    if steps < 1 or patience < 1:
        raise UsageError(f"cw in l0 needs steps >= 1 and patience >= 1, not {steps} and {patience}.")
    if not (lr > 0 and freeze > 0):
        raise UsageError(f"cw in l0 needs lr > 0 and freeze > 0, not {lr} and {freeze}.")
    if not (0 < initial_const <= largest_const and const_factor >= 1):
        raise UsageError(
            f"cw in l0 needs 0 < initial_const <= largest_const and const_factor >= 1, "
            f"not {initial_const}, {largest_const} and {const_factor}."
        )

"""HopSkipJump: walks along the decision boundary by labels alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rbg_attacks._queries import queries_left
from robustbench_gan.contracts import (
    REJECTED,
    Budget,
    Goal,
    UsageError,
    View,
    attack,
    blend,
    norm_of,
    per_sample,
)
from robustbench_gan.seeds import bits, fold, uniform

FIRST_REACH = 0.1  # how far the first estimate of the normal looks, on pixels in [0, 1]
LEAST_REACH = 1e-4  # nearer, the rounding of float32 decides
HALVINGS = 20  # of a step: a direction that needs a shorter one leads nowhere
AT_ONCE = 2**21  # values in one batch of perturbed images


@attack(
    norms=("l2", "linf"),
    needs="labels",
    minimal=True,
    scale_free=True,
    passes=lambda p: p["queries"],
    paper="Chen et al. 2020, arXiv 1904.02144",
)
def hopskipjump(
    view: View,
    x: Tensor,
    goal: Goal,
    budget: Budget,
    seed: Tensor,
    *,
    queries: int = 5000,
    initial: int = 100,
    starts: int = 100,
    gamma: float = 1.0,
) -> Tensor:
    """HopSkipJump (Chen et al. 2020, algorithm 2): bisect to the boundary, estimate its normal, step, repeat.

    x is (N, C, H, W) in [0, 1]; returns the same shape: the success of smallest norm; x itself where the clean image
    is one, or where none was found inside the budget. Only labels are asked for, and a rejected input is never a
    success. It starts from the first of `starts` images of noise, in blocks of several sizes, that is a success.
    `queries` are the labels asked for each image, or what the view's limit leaves; `initial` are those of the first
    estimate, and the estimate of step t takes sqrt(t) times as many. `gamma` scales how near the boundary is
    approached and how far from it the estimates look: smaller is finer and nearer to the noise of float32. On
    linear classes the norm is never below the closed form and, at 2000 queries for 16 pixels, within 5 % of it in
    l2, 10 % in linf. Raises UsageError for parameters that are not positive.
    """
    if min(queries, initial, starts) < 1 or not 0 < gamma < math.inf:
        raise UsageError(
            "hopskipjump needs queries, initial and starts of 1 or more and a finite gamma > 0, "
            f"not {queries}, {initial}, {starts} and {gamma}."
        )
    walk = _Walk(view, goal, budget, x, queries_left(view, queries), gamma)
    best, found, rows = walk.begin(fold(seed, "hopskipjump"), starts)
    at = walk.to_boundary(rows, best[rows])
    step = 1
    while len(rows):
        size = budget.size(at - x[rows])
        nearer = size < budget.size(best[rows] - x[rows])
        best[rows] = blend(nearer, at, best[rows])
        wanted = int(initial * math.sqrt(step))
        going = walk.left[rows] > walk.bisections + initial // 4
        rows, at, size = rows[going], at[going], size[going]
        if len(rows) == 0:
            break
        estimates = (walk.left[rows] - walk.bisections - 2).clamp(min=1, max=wanted)
        reach = walk.reach(size, step)
        ahead = walk.normal(rows, at, reach, estimates, wanted, fold(seed[rows], "hopskipjump", step))
        moved, far = walk.stride(rows, at, ahead, size / math.sqrt(step))
        at = at.index_copy(0, moved, walk.to_boundary(rows[moved], far[moved]))
        step += 1
    inside = found & budget.contains(best - x)
    return blend(inside, best, x)


@dataclass
class _Walk:
    """What the walk stands on; `left` (N,) are the queries each sample may still ask, and falls as they are asked."""

    view: View
    goal: Goal
    budget: Budget
    x: Tensor
    left: Tensor
    gamma: float

    @property
    def values(self) -> int:
        """How many numbers an image has."""
        return self.x[0].numel()

    @property
    def tolerance(self) -> float:
        """How near the boundary a bisection ends, as a share of the distance (theta of section 4.4)."""
        return float(self.gamma * self.values**-1.5)

    @property
    def bisections(self) -> int:
        """How many halvings of the whole distance that takes."""
        return max(math.ceil(-math.log2(self.tolerance)), 1)

    def reach(self, size: Tensor, step: int) -> Tensor:
        """How far from the boundary an estimate looks, (n,), in l2: sqrt(values) times the tolerance."""
        if step == 1:
            return torch.full_like(size, FIRST_REACH)
        wide = size * math.sqrt(self.values) if self.budget.norm == "linf" else size
        return (wide * self.tolerance * math.sqrt(self.values)).clamp(min=LEAST_REACH)

    def won(self, rows: Tensor, x: Tensor) -> Tensor:
        """Is x[i] a success for sample rows[i]? (n,) bool; False, unasked, where no query is left."""
        may = self.left[rows] > 0
        answer = torch.zeros_like(may)
        if bool(may.any()):
            self.left[rows[may]] -= 1
            answer[may] = self._ask(rows[may], x[may])
        return answer

    def _ask(self, rows: Tensor, x: Tensor) -> Tensor:
        label, wanted = self.view.rows(rows).labels(x), self.goal.classes[rows]
        if self.goal.kind == "targeted":
            return label == wanted
        return (label != wanted) & (label != REJECTED)

    def begin(self, seed: Tensor, starts: int) -> tuple[Tensor, Tensor, Tensor]:
        """A success for each sample (N, C, H, W), whether there is one (N,), and the rows with any way to go."""
        everyone = torch.arange(len(self.x), device=self.x.device)
        found = self.won(everyone, self.x)
        best, clean = self.x.clone(), found.clone()
        for number in range(starts):
            rows = torch.nonzero(~found & (self.left > 0))[:, 0]
            if len(rows) == 0:
                break
            noise = _blocks(self.x[rows], fold(seed[rows], "start", number), number)
            hit = self.won(rows, noise)
            best[rows] = blend(hit, noise, best[rows])
            found[rows] = hit
        return best, found, torch.nonzero(found & ~clean)[:, 0]

    def to_boundary(self, rows: Tensor, far: Tensor) -> Tensor:
        """The success nearest x between x and the success `far` (n, C, H, W), by bisection."""
        x = self.x[rows]
        delta = far - x
        high = torch.ones(len(rows), device=x.device)
        low = torch.zeros_like(high)
        for _ in range(self.bisections):
            middle = (low + high) / 2
            hit = self.won(rows, self._between(x, delta, middle))
            high, low = torch.where(hit, middle, high), torch.where(hit, low, middle)
        return blend(high < 1, self._between(x, delta, high), far)

    def _between(self, x: Tensor, delta: Tensor, share: Tensor) -> Tensor:
        """Where `share` (n,) of the distance is left: along the line in l2, at the cube's faces in linf."""
        if self.budget.norm == "l2":
            return x + per_sample(share, x) * delta
        radius = per_sample(share * norm_of(delta, "linf"), x)
        return x + delta.clamp(-radius, radius)

    def normal(
        self, rows: Tensor, at: Tensor, reach: Tensor, estimates: Tensor, most: int, seed: Tensor
    ) -> Tensor:
        """The way the boundary's inner side lies, (n, C, H, W) of unit size, from labels around `at` (eq. 16).

        Each sample asks `estimates` (n,) of `most` times. The answers are taken from their mean, which lowers the
        variance, and each is weighed by the move that the box has left of it.
        """
        each = min(most, max(AT_ONCE // self.values, 1))
        group = max(AT_ONCE // (each * self.values), 1)
        pieces = [
            self._normal(rows[some], at[some], reach[some], estimates[some], (most, each), seed[some])
            for some in torch.arange(len(rows), device=at.device).split(group)
        ]
        return self.budget.steepest(torch.cat(pieces))

    def _normal(
        self, rows: Tensor, at: Tensor, reach: Tensor, estimates: Tensor, sizes: tuple[int, int], seed: Tensor
    ) -> Tensor:
        most, each = sizes
        n, here = len(rows), at.flatten(1)[:, None]
        agreed, moved, total = torch.zeros_like(here[:, 0]), torch.zeros_like(here[:, 0]), reach * 0
        for first in range(0, most, each):
            count = min(each, most - first)
            real = torch.arange(first, first + count, device=at.device) < estimates[:, None]
            noise = _directions(fold(seed, first), count, self.values)
            near = (here + reach[:, None, None] * noise).clamp_(0, 1)
            who, which = torch.nonzero(real, as_tuple=True)
            asked = near[who, which] if not bool(real.all()) else near.flatten(0, 1)
            self.left.index_add_(0, rows[who], torch.full_like(who, -1))
            answer = torch.zeros_like(real, dtype=at.dtype)
            answer[who, which] = self._ask(rows[who], asked.view(-1, *at.shape[1:])) * 2.0 - 1
            near -= here
            agreed += torch.bmm(answer[:, None], near)[:, 0]
            moved += torch.bmm(real[:, None].to(at.dtype), near)[:, 0]
            total = total + answer.sum(dim=1)
        mean = total / estimates
        mean = torch.where(mean.abs() == 1, 0, mean)  # all alike: the mean would leave nothing
        return (agreed - mean[:, None] * moved).view(n, *at.shape[1:])

    def stride(self, rows: Tensor, at: Tensor, ahead: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Step along `ahead` by the first of length (n,), its half, ... that is a success: which did, and where to."""
        far, pending = at.clone(), torch.arange(len(rows), device=at.device)
        moved = torch.zeros(len(rows), dtype=torch.bool, device=at.device)
        for _ in range(HALVINGS):
            step = per_sample(length[pending], at) * ahead[pending]
            trial = (at[pending] + step).clamp(0, 1)
            hit = self.won(rows[pending], trial)
            far[pending] = blend(hit, trial, far[pending])
            moved[pending] = hit
            pending = pending[~hit]
            length = length / 2
            if len(pending) == 0:
                break
        return torch.nonzero(moved)[:, 0], far


def _blocks(x: Tensor, seed: Tensor, number: int) -> Tensor:
    """Uniform noise in square blocks of 1, 2, 4, ... pixels a side, and from 1 again, (N, C, H, W)."""
    channels, height, width = x.shape[1:]
    side = 2 ** (number % max(min(height, width).bit_length() - 1, 1))
    noise = uniform(seed, (channels, -(-height // side), -(-width // side)))
    return noise.repeat_interleave(side, 2).repeat_interleave(side, 3)[:, :, :height, :width]


def _directions(seed: Tensor, count: int, values: int) -> Tensor:
    """Uniform noise of mean 0 and of unit norm on average, (N, count, values): four values of each 64 random bits."""
    raw = bits(seed, (-(-count * values // 4),)).view(torch.int16)[:, : count * values]
    return (raw.to(torch.float32) * (math.sqrt(3 / values) * 2.0**-15)).view(-1, count, values)

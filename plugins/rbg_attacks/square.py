"""Square attack: random search among square patches, by scores alone."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from rbg_attacks._queries import queries_left
from robustbench_gan.contracts import (
    TINY,
    Budget,
    Goal,
    NotApplicable,
    UsageError,
    View,
    attack,
    blend,
    norm_of,
    per_sample,
)
from robustbench_gan.seeds import fold, uniform

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries (section 5, "schedule")
TILES = 5  # patches along a side of the l2 start


@attack(
    norms=("l2", "linf"),
    needs="scores",
    scale_free=True,
    passes=lambda p: p["queries"],
    paper="Andriushchenko et al. 2020, arXiv 1912.00049",
)
def square(
    view: View,
    x: Tensor,
    goal: Goal,
    budget: Budget,
    seed: Tensor,
    *,
    queries: int = 5000,
    share: float = 0.8,
) -> Tensor:
    """Square Attack (Andriushchenko et al. 2020, algorithms 1 to 3): keep a random square if the margin rises.

    x is (N, C, H, W) in [0, 1]; returns the same shape: the proposal of largest margin. linf: starts from vertical
    stripes at +-eps, a proposal sets one square to +-eps in each channel. l2: starts from tiles, a proposal moves
    the mass of one window into another. Positions and signs are drawn for each sample. `queries` are the scores
    asked for each image, the start included, or what the view's limit leaves; `share` is the share of the image
    that the first squares cover, halved on the paper's schedule over those queries. Samples already won stop
    costing where the view is exact. On linear classes, in linf and away from the box, it ends at the optimum, a
    corner of the cube, given queries enough to try every pixel. Raises UsageError for fewer than one query or a
    share outside (0, 1], NotApplicable for an infinite eps.
    """
    if queries < 1 or not 0 < share <= 1:
        raise UsageError(f"square needs queries >= 1 and a share in (0, 1], not {queries} and {share}.")
    if budget.eps == float("inf"):
        raise NotApplicable("square needs a finite eps")
    left = queries_left(view, queries)
    total = min(queries, view.limit // view.draws) if view.limit else queries
    start, propose = (_stripes, _square) if budget.norm == "linf" else (_tiles, _moved_mass)
    best, seed = x.clone(), fold(seed, "square")
    margin = torch.full((len(x),), -torch.inf, device=x.device)
    active = torch.nonzero(left > 0)[:, 0]
    for number in range(total):
        if len(active) == 0:
            break
        at, draw = best[active], fold(seed[active], number)
        if number == 0:
            trial = start(at, budget.eps, draw)
        else:
            trial = propose(x[active], at, budget.eps, draw, share_at(share, number / total))
        here = goal.rows(active).margin(view.rows(active).output(trial))
        better = here > margin[active]
        risen = active[better]
        best[risen], margin[risen] = trial[better], here[better]
        going = left[active] > number + 1
        active = active[going & (margin[active] <= 0)] if view.exact else active[going]
    return best


def share_at(share: float, progress: float) -> float:
    """The share of the image that a square covers when `progress` in [0, 1] of the queries are spent."""
    return share * 0.5 ** sum(progress * 10000 > after for after in HALVINGS)


def _stripes(x: Tensor, eps: float, seed: Tensor) -> Tensor:
    """Every column of every channel at plus or minus eps."""
    signs = (uniform(seed, (x.shape[1], 1, x.shape[3])) < 0.5) * 2.0 - 1
    return (x + eps * signs).clamp(0, 1)


def _square(x: Tensor, at: Tensor, eps: float, seed: Tensor, share: float) -> Tensor:
    """`at` with one square set to plus or minus eps around x, one sign a channel."""
    channels, height, width = x.shape[1:]
    side = min(max(round((share * height * width) ** 0.5), 1), height, width)
    noise = uniform(seed, (2 + channels,))
    inside = _window(noise[:, :2], side, x)
    signs = ((noise[:, 2:] < 0.5) * 2.0 - 1)[:, :, None]
    old, clean = at.flatten(2).gather(2, inside), x.flatten(2).gather(2, inside)
    new = (clean + eps * signs).clamp(0, 1)
    same = (new == old).flatten(1).all(dim=1)  # a query for nothing: the opposite signs do change something
    new = blend(same, (clean - eps * signs).clamp(0, 1), new)
    return at.flatten(2).scatter(2, inside, new).view_as(at)


def _tiles(x: Tensor, eps: float, seed: Tensor) -> Tensor:
    """A grid of patches, each channel of each with its own sign, scaled to norm eps."""
    height, width = x.shape[2:]
    side = max(min(height, width) // TILES, 1)
    down, across = height // side, width // side
    noise = uniform(seed, (x.shape[1] + 1, down, across))
    turned = (noise[:, -1:] < 0.5).repeat_interleave(side, 2).repeat_interleave(side, 3)
    signs = ((noise[:, :-1] < 0.5) * 2.0 - 1).repeat_interleave(side, 2).repeat_interleave(side, 3)
    patch = bump(side).to(x.device)
    delta = torch.zeros_like(x)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    tiled = torch.where(turned, patch.T.repeat(down, across), patch.repeat(down, across)) * signs
    delta[:, :, top : top + down * side, left : left + across * side] = tiled
    return _scaled(x, delta, eps)


def _moved_mass(x: Tensor, at: Tensor, eps: float, seed: Tensor, share: float) -> Tensor:
    """`at` with the mass of a second window, and what is left of eps, put into a first as a patch (algorithm 3)."""
    channels, height, width = x.shape[1:]
    side = max(round((share * height * width) ** 0.5), 3)
    side = min(side + 1 - side % 2, height, width)
    noise = uniform(seed, (5 + channels,))
    first, second = _window(noise[:, :2], side, x), _window(noise[:, 2:4], side, x)
    delta = (at - x).flatten(2)
    patch = bump(side).to(x.device)
    patch = torch.where(noise[:, 4, None, None] < 0.5, patch.T, patch).flatten(1)[:, None]
    signs = ((noise[:, 5:] < 0.5) * 2.0 - 1)[:, :, None]
    patch = _unit(signs * patch + _unit(delta.gather(2, first)))
    rest = delta.scatter(2, second, 0).scatter(2, first, 0)
    mass = delta.square().sum(dim=2, keepdim=True)
    unspent = (eps**2 - mass.sum(dim=1, keepdim=True)).clamp(min=0) / channels
    mass = (mass - rest.square().sum(dim=2, keepdim=True)).clamp(min=0) + unspent
    return _scaled(x, rest.scatter(2, first, patch * mass.sqrt()).view_as(x), eps)


@lru_cache
def bump(side: int) -> Tensor:
    """A patch of two pyramids of opposite sign, (side, side), of unit norm (section 4.2, eq. 2)."""
    upper, lower = _pyramid(side // 2, side), _pyramid(side - side // 2, side)
    both = torch.cat([upper, -lower])
    return both / both.square().sum().sqrt()


def _pyramid(height: int, width: int) -> Tensor:
    """Rings around the middle, each lower by 1 / its number squared; of unit norm."""
    down = (torch.arange(height) - height // 2).abs()[:, None]
    across = (torch.arange(width) - width // 2).abs()[None, :]
    rings = max(height // 2, width // 2) + 1
    steps = 1 / torch.arange(1, rings + 1, dtype=torch.float32).square()
    value = steps.flip(0).cumsum(0).flip(0)[torch.maximum(down, across)]
    return value / value.square().sum().sqrt().clamp(min=TINY)


def _window(noise: Tensor, side: int, x: Tensor) -> Tensor:
    """Which pixels a square covers, (N, C, side * side) of H * W, its place drawn from noise (N, 2) in [0, 1)."""
    channels, height, width = x.shape[1:]
    room = noise.new_tensor([height - side + 1, width - side + 1])
    corner = torch.minimum((noise * room).floor(), room - 1).long()
    along = torch.arange(side, device=x.device)
    pixels = (corner[:, :1] + along)[:, :, None] * width + (corner[:, 1:] + along)[:, None, :]
    return pixels.flatten(1)[:, None].expand(-1, channels, -1)


def _unit(delta: Tensor) -> Tensor:
    """(N, C, pixels), each channel scaled to unit norm; 0 where it is 0."""
    return delta / delta.square().sum(dim=2, keepdim=True).sqrt().clamp(min=TINY)


def _scaled(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    """x moved along delta by eps, inside the box."""
    return (x + delta * per_sample(eps / norm_of(delta, "l2").clamp(min=TINY), delta)).clamp(0, 1)

"""Which two features JSMA changes: the best pair of a saliency map, exactly, without looking at all pairs."""

from __future__ import annotations

import torch
from torch import Tensor

ELEMENTS = 1 << 22  # values in one temporary: what bounds memory (16 MiB each, about four at a time)


def best_sum(gain: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
    """The pair p, q of the domain with the largest gain_p + gain_q: (R, 2) indices, and (R,) whether that is > 0.

    gain is (R, n), domain (R, n) bool. It is the best pair of the map (gain_p + gain_q)^2, to which the map of
    softmax outputs comes down: their derivatives add up to zero, so beta is -alpha.
    """
    top = torch.where(domain, gain, -torch.inf).topk(2, dim=1)
    return top.indices, top.values.sum(dim=1) > 0


def best_product(gain: Tensor, fall: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
    """The pair of the domain with the largest (gain_p + gain_q) * (fall_p + fall_q), both sums above 0.

    gain, fall and domain are (R, n). Returns (R, 2) indices and (R,) whether such a pair exists. The product grows
    in each of the four values, so a feature that two others beat in both coordinates is in no best pair that they
    could not improve: the first two Pareto fronts hold a best pair, and only they are searched.
    """
    gain, fall = torch.where(domain, gain, -torch.inf), torch.where(domain, fall, -torch.inf)
    first = _front(gain, fall)
    second = _front(gain.masked_fill(first, -torch.inf), fall.masked_fill(first, -torch.inf))
    kept = (first | second) & domain
    width = max(2, int(kept.sum(dim=1).max()))
    numbered = torch.arange(gain.shape[1], 0, -1, device=gain.device)  # in order, whatever the width
    places = torch.where(kept, numbered, 0).topk(width, dim=1).indices
    kept = kept.gather(1, places)
    gain = torch.where(kept, gain.gather(1, places), -torch.inf)
    fall = torch.where(kept, fall.gather(1, places), -torch.inf)
    some = max(1, ELEMENTS // width)
    found = [_search(g, f) for g, f in zip(gain.split(some), fall.split(some), strict=True)]
    return places.gather(1, torch.cat([pair for pair, _ in found])), torch.cat([ok for _, ok in found])


def _front(gain: Tensor, fall: Tensor) -> Tensor:
    """(R, n) bool: at least the features that no other beats in both coordinates (of equals, at least one)."""
    order = gain.argsort(dim=1, descending=True, stable=True)
    along = fall.gather(1, order)
    record = along.cummax(dim=1).values
    new = torch.cat([torch.ones_like(record[:, :1], dtype=torch.bool), along[:, 1:] > record[:, :-1]], dim=1)
    return torch.zeros_like(new).scatter(1, order, new)


def _search(gain: Tensor, fall: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs of (R, m) candidates, some rows of the pair matrix at a time: (R, 2) places and (R,) found."""
    count, width = gain.shape
    best = gain.new_zeros(count)
    pair = torch.zeros(count, 2, dtype=torch.int64, device=gain.device)
    place = torch.arange(width, device=gain.device)
    for rows in place.split(max(1, ELEMENTS // (count * width))):
        up, down = gain[:, rows, None] + gain[:, None], fall[:, rows, None] + fall[:, None]
        admissible = (up > 0) & (down > 0) & (rows[:, None] < place)
        top, at = torch.where(admissible, up * down, 0).flatten(1).max(dim=1)
        better = top > best
        here = torch.stack([rows[0] + at // width, at % width], dim=1)
        pair = torch.where(better[:, None], here, pair)
        best = torch.where(better, top, best)
    return pair, best > 0

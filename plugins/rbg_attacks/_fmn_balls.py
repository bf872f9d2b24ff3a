"""Balls of a radius for each sample: dual norms and projections."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustbench_gan.contracts import TINY, Norm, flat, norm_of, per_sample

DUAL: dict[Norm, float] = {"l1": math.inf, "l2": 2, "linf": 1}


def dual(grad: Tensor, norm: Norm) -> Tensor:
    """The dual norm of each gradient, (N,), above 0, in float64: a tiny one must not vanish."""
    size: Tensor = torch.linalg.vector_norm(flat(grad), DUAL[norm], dim=1, dtype=torch.float64)
    return size.clamp(min=1e-200)


def project(delta: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """The nearest perturbation in each sample's own ball of `radius` (N,), (N, C, H, W).

    In l0 the radius is a whole number from 1, and values tied with the last one kept are kept too.
    """
    if norm == "l2":
        return delta * per_sample((radius / norm_of(delta, "l2").clamp(min=TINY)).clamp(max=1), delta)
    if norm == "linf":
        bound = per_sample(radius, delta)
        return delta.clamp(-bound, bound)
    magnitude = flat(delta).abs()
    if norm == "l0":
        top = magnitude.topk(int(radius.max()), dim=1).values
        least = top.gather(1, radius.long()[:, None] - 1)
        return delta * (magnitude >= least).view_as(delta)
    return delta.sign() * (magnitude - _threshold(magnitude, radius[:, None])).clamp(min=0).view_as(delta)


def _threshold(magnitude: Tensor, radius: Tensor) -> Tensor:
    """What to take off every magnitude (N, D) for a sum of `radius` (N, 1) at most (Michelot 1986), (N, 1).

    From below: while values fall under the threshold, it is raised for those that remain. No sorting.
    """
    threshold, before = torch.zeros_like(radius), None
    while True:
        above = magnitude > threshold
        count = above.sum(dim=1, keepdim=True)
        if before is not None and torch.equal(count, before):
            return threshold
        excess = (magnitude * above).sum(dim=1, keepdim=True) - radius
        threshold, before = torch.maximum(threshold, excess / count.clamp(min=1)), count

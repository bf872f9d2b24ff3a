"""The gradient of a defense as a threat model grants it."""

from __future__ import annotations

import torch
from planted import seeds


def gradient_of(defense, x, gradient="full", unroll=5, seed=None):
    """d(sum of the first logit) / dx through `attacked`."""
    leaf = x.clone().requires_grad_()
    out = defense.attacked(leaf, seeds(len(x)) if seed is None else seed, gradient, unroll)
    (grad,) = torch.autograd.grad(out.logits[:, 0].sum(), leaf)
    return out, grad


def row(model, x, factor=1.0):
    return (model.weight[0] * factor).reshape(1, *x.shape[1:]).expand_as(x)

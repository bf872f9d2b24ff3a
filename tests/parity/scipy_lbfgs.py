"""Szegedy's attack with scipy's L-BFGS-B, one image at a time, for comparison: same objective, search and tolerance."""

from __future__ import annotations

import math

import torch
from rbg_attacks.lbfgs import _towards
from scipy.optimize import minimize
from torch import Tensor, nn

from robustbench_gan.nouns.outcome import Goal, Output

STEPS, SEARCH_STEPS, INITIAL_CONST, HISTORY, TOLERANCE = 100, 5, 1e-2, 5, 1e-4


def scipy_lbfgs(model: nn.Module, x: Tensor, goal: Goal) -> Tensor:
    """The nearest success of all evaluated points, images x (N, C, H, W) one after another; x where there is none."""
    each = torch.arange(len(x)).split(1)
    return torch.cat([_one(model, x[i], goal.rows(i)) for i in each])


def _one(model: nn.Module, x: Tensor, goal: Goal) -> Tensor:
    start = x.flatten().double().numpy()
    options = {"maxiter": STEPS, "maxcor": HISTORY, "ftol": TOLERANCE, "gtol": TOLERANCE}
    best, nearest = x, math.inf
    lower, upper, const = 0.0, math.inf, INITIAL_CONST
    last = (start, False)

    def objective(point):
        nonlocal best, nearest, last
        leaf = torch.from_numpy(point).float().view_as(x).requires_grad_()
        out = Output.of(model(leaf))
        loss = _towards(goal)(out)
        (grad,) = torch.autograd.grad(loss.sum(), leaf)
        delta = point - start
        size, won = float(delta @ delta), bool(goal.reached(out.detach()))
        last = (point.copy(), won)
        if won and size < nearest:
            best, nearest = leaf.detach(), size
        return size - const * float(loss.detach()), 2 * delta - const * grad.flatten().double().numpy()

    for _ in range(SEARCH_STEPS):
        found = minimize(
            objective, start, jac=True, method="L-BFGS-B", bounds=[(0, 1)] * len(start), options=options
        )
        if not (last[0] == found.x).all():
            objective(found.x)
        if last[1]:
            upper = const
        else:
            lower = const
        const = (lower + upper) / 2 if upper < math.inf else 10 * const
    return best

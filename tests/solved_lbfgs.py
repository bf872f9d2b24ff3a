"""Small problems by our solver and by scipy's."""

from __future__ import annotations

import torch
from rbg_attacks._batched_lbfgs import BatchedLbfgs
from scipy.optimize import minimize

N = 8


def solve(function, start, steps=2000, history=8, tolerance=1e-12):
    """The minima (N, n), their values, and how many evaluations each took; function maps (N, n) and rows to (N,)."""
    solver = BatchedLbfgs(start, steps=steps, history=history, tolerance=tolerance, first=1.0)

    def look(at, rows):
        leaf = at.clone().requires_grad_()
        value = function(leaf, rows)
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    active = torch.arange(len(start))
    solver.begin(active, *look(start, active))
    while len(active):
        trial = solver.ask(active)
        assert ((trial >= 0) & (trial <= 1)).all()
        before = solver.value[active].clone()
        _, ended = solver.tell(active, trial, *look(trial, active))
        assert not (solver.value[active] > before).any()  # never uphill
        active = active[~ended]
    return solver.at, solver.value, solver.used


def by_scipy(function, start, row):
    """The minimum of problem `row` by scipy's L-BFGS-B, and its value."""

    def look(v):
        leaf = torch.from_numpy(v)[None].requires_grad_()
        value = function(leaf, torch.tensor([row]))
        return float(value.detach()), torch.autograd.grad(value.sum(), leaf)[0][0].numpy()

    options = {"maxiter": 5000, "maxfun": 50000, "ftol": 1e-15, "gtol": 1e-10}
    found = minimize(look, start[row].numpy(), jac=True, method="L-BFGS-B", bounds=[(0, 1)] * start.shape[1], options=options)  # fmt: skip
    return torch.from_numpy(found.x), found.fun

"""The box-constrained L-BFGS solver against scipy's and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from solved_lbfgs import N, by_scipy, solve


@pytest.mark.parametrize("condition", [1, 100, 10000])
def test_a_separable_quadratic_is_minimised_at_its_centre_clipped_to_the_box(condition):
    generator = torch.Generator().manual_seed(1)
    centre = torch.rand(N, 20, generator=generator, dtype=torch.float64) * 3 - 1
    weight = torch.logspace(0, math.log10(condition), 20, dtype=torch.float64)
    start = torch.rand(N, 20, generator=generator, dtype=torch.float64)
    found, _, _ = solve(lambda v, rows: (weight * (v - centre[rows]).square()).sum(dim=1), start)
    assert torch.allclose(found, centre.clamp(0, 1), atol=1e-3 if condition > 100 else 1e-5)


def test_a_quadratic_without_bounds_in_the_way_takes_few_evaluations():
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(N, 10, 10, generator=generator, dtype=torch.float64)
    matrix = matrix @ matrix.mT + torch.eye(10, dtype=torch.float64)
    centre = 0.3 + 0.4 * torch.rand(N, 10, generator=generator, dtype=torch.float64)

    def bowl(v, rows):
        away = v - centre[rows]
        return torch.einsum("ri,rij,rj->r", away, matrix[rows], away)

    found, _, used = solve(bowl, torch.full((N, 10), 0.5, dtype=torch.float64), tolerance=1e-10)
    assert torch.allclose(found, centre, atol=1e-4)
    assert used.max() <= 60


def coupled(seed=3, size=12):
    """Convex, far from separable, with its minimum on the boundary."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(N, size, size, generator=generator, dtype=torch.float64)
    matrix = matrix @ matrix.mT + 0.1 * torch.eye(size, dtype=torch.float64)
    linear = 3 * torch.randn(N, size, generator=generator, dtype=torch.float64)

    def function(v, rows):
        return torch.einsum("ri,rij,rj->r", v, matrix[rows], v) + (linear[rows] * v).sum(dim=1)

    return function, torch.rand(N, size, generator=generator, dtype=torch.float64)


def test_coupled_quadratics_at_the_boundary_have_scipy_s_minimum():
    function, start = coupled()
    found, value, _ = solve(function, start)
    assert ((found == 0) | (found == 1)).any(dim=1).all()
    for row in range(N):
        point, least = by_scipy(function, start, row)
        assert torch.allclose(found[row], point, atol=1e-4)
        assert abs(float(value[row]) - least) <= 1e-7 * max(1, abs(least))


def test_rosenbrock_s_valley_in_a_box():
    def valley(v, rows):  # its minimum, at 1 in each coordinate, is moved to 0.8; row 0 has it cut off
        w = v / torch.where(rows == 0, 1.4, 0.8)[:, None]
        return (100 * (w[:, 1:] - w[:, :-1].square()).square() + (1 - w[:, :-1]).square()).sum(dim=1)

    start = torch.rand(3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found, value, _ = solve(valley, start)
    assert torch.allclose(found[1:], torch.full((2, 4), 0.8, dtype=torch.float64), atol=1e-4)
    assert value[0] == pytest.approx(by_scipy(valley, start, 0)[1], abs=1e-6)


def test_each_problem_is_solved_as_if_alone():
    function, start = coupled()
    together, _, used = solve(function, start, tolerance=1e-6)
    assert len(used.unique()) > 1
    for row in range(N):
        alone, _, cost = solve(lambda v, _, row=row: function(v, torch.tensor([row])), start[row : row + 1], tolerance=1e-6)  # fmt: skip
        assert torch.allclose(alone[0], together[row], atol=1e-9)
        assert cost.item() == used[row].item()


def test_values_that_are_no_numbers_end_a_problem():
    def broken(v, rows):
        return (v - 0.5).square().sum(dim=1) / torch.where(rows == 1, math.nan, 1.0)

    found, _, used = solve(
        broken, torch.rand(3, 4, generator=torch.Generator().manual_seed(1)).double(), steps=50
    )
    assert torch.allclose(found[[0, 2]], torch.tensor(0.5).double(), atol=1e-6)
    assert used[1] < 50


def test_a_pair_is_forgotten_when_newer_ones_fill_the_history():
    function, start = coupled()
    few, _, more = solve(function, start, history=1)
    many, _, fewer = solve(function, start, history=12)
    assert torch.allclose(few, many, atol=1e-4)
    assert fewer.sum() < more.sum()

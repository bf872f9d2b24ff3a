from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from planted import images, seeds
from scipy import stats

from robustbench_gan.base.errors import UsageError
from robustbench_gan.nouns.budget import NORMS, Budget, flat, norm_named, norm_of, radius

SHAPE = (2, 3, 2)
DIM = math.prod(SHAPE)
BALLS = [Budget("linf", 0.3), Budget("l2", 0.8), Budget("l1", 1.5), Budget("l0", 3)]
CONVEX = BALLS[:3]


def by_norm(budget):
    return budget.norm


def deltas(count, scale=1.0, seed=0):
    return scale * torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def feasible(budget, count, seed=1):
    """Points of the ball, drawn without Budget: random directions at random radii, many on the sphere."""
    d = deltas(count, seed=seed)
    if budget.norm == "l0":
        g = torch.Generator().manual_seed(seed)
        keep = torch.rand(count, DIM, generator=g).argsort(dim=1).argsort(dim=1) < budget.eps
        return d * keep.reshape(-1, *SHAPE)
    order = {"linf": math.inf, "l2": 2, "l1": 1}[budget.norm]
    radius = torch.rand(count, generator=torch.Generator().manual_seed(seed)).mul(1.5).clamp(max=1)
    unit = flat(d) / torch.linalg.vector_norm(flat(d), ord=order, dim=1, keepdim=True)
    return (unit * radius[:, None] * budget.eps).reshape(-1, *SHAPE)


@pytest.mark.parametrize("norm", ["l1", "l2", "linf", "l0"])
def test_size_is_the_vector_norm(norm):
    d = deltas(20) * (deltas(20, seed=4) > 0)
    order = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}[norm]
    assert torch.allclose(norm_of(d, norm), torch.linalg.vector_norm(d.flatten(1), ord=order, dim=1))
    assert torch.equal(Budget(norm, 1).size(d), norm_of(d, norm))


@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 30.0])
@pytest.mark.parametrize("budget", BALLS, ids=by_norm)
def test_projection_is_inside_idempotent_and_leaves_the_inside_alone(budget, scale):
    d = deltas(50, scale)
    p = budget.project(d)
    assert p.shape == d.shape and budget.contains(p).all()
    assert torch.allclose(budget.project(p), p, atol=1e-6)
    inside = feasible(budget, 50) * 0.99
    assert torch.allclose(budget.project(inside), inside, atol=1e-7)


@pytest.mark.parametrize("budget", BALLS, ids=by_norm)
def test_projection_is_nearer_than_every_other_feasible_point(budget):
    others = flat(feasible(budget, 3000)).double()
    for d in deltas(20).double():
        p = budget.project(d[None])[0]
        nearest = (p - d).norm()
        assert (others - d.flatten()).norm(dim=1).min() >= nearest - 1e-9
        near = flat(budget.project(p + deltas(300, 0.02, seed=3).double()))  # feasible points close by
        assert (near - d.flatten()).norm(dim=1).min() >= nearest - 1e-9


@pytest.mark.parametrize("budget", CONVEX, ids=by_norm)
def test_projection_satisfies_the_variational_inequality(budget):
    """p is the projection of d on a convex set exactly where <d - p, q - p> <= 0 for each feasible q."""
    d = deltas(20).double()
    p, q = flat(budget.project(d)), flat(feasible(budget, 2000)).double()
    inner = (flat(d) - p) @ q.T - ((flat(d) - p) * p).sum(dim=1, keepdim=True)
    assert inner.max() <= 1e-6


@pytest.mark.parametrize("budget", CONVEX, ids=by_norm)
def test_projection_of_the_outside_lies_on_the_sphere(budget):
    assert torch.allclose(budget.size(budget.project(deltas(20, 50.0))), torch.tensor(budget.eps), rtol=1e-4)


def test_projections_of_known_points():
    d = torch.tensor([3.0, -1.0, 0.5, 0.0]).reshape(1, 1, 2, 2)

    def projected(norm, eps):
        return Budget(norm, eps).project(d).flatten().tolist()

    assert projected("linf", 0.75) == [0.75, -0.75, 0.5, 0.0]
    assert projected("l1", 3.0) == [2.5, -0.5, 0.0, 0.0]
    assert projected("l1", 1.0) == [1.0, 0.0, 0.0, 0.0]
    assert projected("l0", 2) == [3.0, -1.0, 0.0, 0.0]
    assert Budget("l2", 0.5).project(torch.tensor([[3.0, 4.0]])).tolist() == [pytest.approx([0.3, 0.4])]


@pytest.mark.parametrize("norm", NORMS)
def test_an_empty_ball_holds_zero_alone_and_an_infinite_one_everything(norm):
    d = deltas(5, 100.0)
    assert Budget(norm, 0).project(d).eq(0).all()
    assert not Budget(norm, 0).contains(d).any()
    assert torch.equal(Budget(norm, math.inf).project(d), d)
    assert Budget(norm, math.inf).contains(d).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_steepest_maximises_the_inner_product_over_the_unit_ball(norm):
    g = deltas(20).double()
    best = flat(Budget(norm, 1).steepest(g))
    order, dual = {"linf": (math.inf, 1), "l2": (2, 2), "l1": (1, math.inf)}[norm]
    assert torch.allclose(torch.linalg.vector_norm(best, ord=order, dim=1), torch.ones(20).double())
    reached = (best * flat(g)).sum(dim=1)
    assert torch.allclose(reached, torch.linalg.vector_norm(flat(g), ord=dual, dim=1))  # Hoelder's bound
    rivals = flat(feasible(Budget(norm, 1.0), 2000)).double()
    assert (rivals @ flat(g).T).amax(dim=0).le(reached + 1e-6).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e-8, 1.0, 1e15])
def test_steepest_has_unit_size_however_small_the_gradient(norm, scale):
    """A saturated network's gradient is tiny, not zero: an attack that stood still there would do nothing."""
    g = deltas(10)
    step = Budget(norm, 1).steepest(g * scale)
    assert torch.allclose(norm_of(step, norm), torch.ones(10))
    assert torch.allclose(step, Budget(norm, 1).steepest(g), atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_steepest_of_a_zero_gradient_is_zero(norm):
    assert Budget(norm, 1).steepest(torch.zeros(2, *SHAPE)).eq(0).all()


@pytest.mark.parametrize("budget", BALLS, ids=by_norm)
def test_contains_forgives_float32_rounding_and_nothing_visible(budget):
    on_sphere = budget.project(deltas(200, 50.0))
    if budget.norm != "l0":
        assert not budget.contains(on_sphere * 1.001).any()
        assert budget.contains(on_sphere * (1 + 5e-7)).all()
    else:
        more = on_sphere.clone().flatten(1)
        more.scatter_(1, more.eq(0).int().argmax(dim=1, keepdim=True), 1e-9)
        assert not budget.contains(more.view_as(on_sphere)).any()


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize(
    "budget", [Budget("linf", 8 / 255), Budget("l2", 2.0), Budget("l1", 20.0)], ids=by_norm
)
def test_what_is_projected_added_to_an_image_and_clipped_is_still_inside(budget, scale):
    """On images of real size, measured as the judge does: from the two float32 images."""
    x = images(20, (3, 32, 32))
    d = scale * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    assert budget.contains((x + budget.project(d)).clamp(0, 1) - x).all()
    assert budget.contains((x + budget.random(x, seeds(20))).clamp(0, 1) - x).all()


@pytest.mark.parametrize("budget", [*BALLS, Budget("l2", math.inf)], ids=str)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_contains_no_perturbation_that_is_not_a_number(budget, poison):
    d = torch.zeros(3, *SHAPE)
    d[1, 0, 1, 1] = poison
    if math.isnan(poison):
        assert budget.contains(d).tolist() == [True, budget.norm == "l0", True]
    elif budget.norm != "l0" and budget.eps < math.inf:
        assert budget.contains(d).tolist() == [True, False, True]


@pytest.mark.parametrize("budget", BALLS, ids=by_norm)
def test_random_points_are_inside_and_each_comes_from_its_own_seed(budget):
    x = torch.zeros(400, *SHAPE)
    s = seeds(400)
    d = budget.random(x, s)
    assert d.shape == x.shape and budget.contains(d).all()
    assert torch.equal(budget.random(x[:7], s[:7]), d[:7])
    assert torch.equal(budget.random(x, s.flip(0)), d.flip(0))
    assert len(d.flatten(1).unique(dim=0)) == 400


def test_random_linf_is_uniform_in_the_cube():
    eps = 0.3
    d = Budget("linf", eps).random(torch.zeros(3000, *SHAPE), seeds(3000))
    assert abs(d.mean()) < 4 * eps / math.sqrt(3 * d.numel())
    assert d.var().item() == pytest.approx(eps**2 / 3, rel=0.02)
    assert stats.kstest(d.flatten().numpy(), stats.uniform(-eps, 2 * eps).cdf).pvalue > 0.01


def test_random_l2_is_uniform_in_the_ball():
    """Then (radius / eps)^n is uniform on [0, 1] and the direction has no preference."""
    budget, count = Budget("l2", 2.0), 3000
    d = budget.random(torch.zeros(count, *SHAPE), seeds(count))
    assert stats.kstest((budget.size(d) / 2).pow(DIM).numpy(), "uniform").pvalue > 0.01
    unit = flat(d) / budget.size(d)[:, None]
    assert (unit.mean(dim=0).abs() < 4.5 / math.sqrt(DIM * count)).all()
    assert torch.allclose(unit.T @ unit / count, torch.eye(DIM) / DIM, atol=0.02)


def test_random_l1_has_a_uniform_radius_that_does_not_depend_on_the_direction():
    budget, count = Budget("l1", 2.0), 3000
    d = budget.random(torch.zeros(count, *SHAPE), seeds(count))
    radius = budget.size(d)
    assert stats.kstest((radius / 2).numpy(), "uniform").pvalue > 0.01
    share = flat(d).abs() / radius[:, None]
    for k in range(DIM):
        assert stats.spearmanr(radius.numpy(), share[:, k].numpy()).pvalue > 1e-3
    # The law of a coordinate's share is the same for each coordinate.
    assert torch.allclose(share.mean(dim=0), torch.full((DIM,), 1 / DIM), atol=0.006)


def test_random_l0_changes_eps_places_each_equally_often():
    count = 3000
    d = flat(Budget("l0", 3).random(torch.zeros(count, *SHAPE), seeds(count)))
    assert (d != 0).sum(dim=1).float().mean() > 2.999 and (d != 0).sum(dim=1).max() == 3
    assert torch.allclose((d != 0).float().mean(dim=0), torch.full((DIM,), 3 / DIM), atol=0.04)
    assert stats.kstest(d[d != 0].numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.01


@pytest.mark.parametrize(
    ("norm", "eps", "message"),
    [
        ("l3", 1.0, "unknown norm 'l3'.*l0, l1, l2, linf"),
        ("Linf", 0.3, "Did you mean 'linf'"),
        ("linf", -0.1, "eps=-0.1"),
        ("l2", math.nan, "eps=nan"),
        ("l2", -math.inf, "eps=-inf"),
        ("linf", 8.0, "did you mean 8/255"),
    ],
)
def test_an_impossible_ball_is_a_usage_error(norm, eps, message):
    with pytest.raises(UsageError, match=message):
        Budget(norm, eps)


def test_large_and_infinite_radii_are_possible_where_they_mean_something():
    for norm, eps in [("l2", 8.0), ("l1", 100.0), ("l0", 784), ("linf", 1.0), ("linf", math.inf)]:
        assert Budget(norm, eps).eps == eps


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.5/255", 0.5 / 255), ("0.03", 0.03), (".03", 0.03),
        ("1e-3", 1e-3), (0.03, 0.03), (0, 0.0), (-0.0, 0.0), ("inf", math.inf), ("Infinity", math.inf),
        (math.inf, math.inf), (np.float64(0.03), 0.03), (np.float32(0.5), 0.5), (np.inf, math.inf),
        (np.int64(3), 3.0), (torch.tensor(0.25), 0.25), (torch.tensor([2]), 2.0), (np.array(0.5), 0.5),
    ],
)  # fmt: skip
def test_a_radius_is_read_in_every_form_that_users_write(written, value):
    found = radius(written)
    assert type(found) is float
    assert str(found) == str(value)  # the sign of zero as well


@pytest.mark.parametrize(
    "written",
    [
        None, True, "", "/", "8/", "/255", "8/0", "8/-255", "8/inf", "8/255/2", "-1", -0.5, "nan", math.nan, "1e999",
        10**400, "-inf", -math.inf, "inf/2", "eight", [], [0.1], {}, torch.rand(3), np.zeros(0), 1j, b"0.1",
    ],
)  # fmt: skip
def test_what_is_no_radius_is_refused_in_one_line_that_shows_it(written):
    with pytest.raises(UsageError, match="is no radius: expected a number of 0 or more") as caught:
        radius(written)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 140


@pytest.mark.parametrize(
    ("written", "norm"),
    [
        ("l2", "l2"), ("L2", "l2"), ("2", "l2"), (2, "l2"), (2.0, "l2"), (np.float32(2), "l2"), ("l_2", "l2"),
        (torch.tensor(2), "l2"), (" linf ", "linf"), ("Linf", "linf"), ("inf", "linf"), (math.inf, "linf"),
        (np.inf, "linf"), ("l_inf", "linf"), (1, "l1"), ("L1", "l1"), (0, "l0"), ("0", "l0"),
    ],
)  # fmt: skip
def test_a_norm_is_read_in_every_form_that_users_write(written, norm):
    assert norm_named(written) == norm


@pytest.mark.parametrize(
    "written", ["", "l", "l3", 3, None, True, -1, 2.5, "ll2", math.nan, [2], torch.zeros(2)]
)
def test_an_unknown_norm_lists_the_real_ones(written):
    with pytest.raises(UsageError, match=r"unknown norm .*Known: l0, l1, l2, linf"):
        norm_named(written)

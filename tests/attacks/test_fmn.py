"""FMN against the optimum on linear models in a box, its projections, detectors, bfloat16 and bad parameters."""

from __future__ import annotations

import math

import pytest
import torch
from planted import Detector, WrongInBfloat16, conv, flatter, images, optimum, seeds, view_of
from rbg_attacks._fmn_balls import project
from rbg_attacks.fmn import fmn

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.systems import Defended
from robustbench_gan.nouns.budget import NORMS, Budget
from robustbench_gan.nouns.outcome import Goal, Output

N = 40


def run(model, x, goal, norm, eps=math.inf, **parameters):
    view = view_of(model, len(x))
    return fmn(view, x, goal, Budget(norm, eps), seeds(len(x)), **parameters), view


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("corners", [False, True])
def test_on_a_linear_model_it_comes_to_the_optimum_in_the_box(norm, corners):
    model, x = flatter(2), images(N).round() if corners else images(N)
    y = model(x).argmax(dim=1)
    made, _ = run(model, x, Goal.untargeted(y), norm)
    assert (model(made).argmax(dim=1) != y).all()
    size, best = Budget(norm, math.inf).size(made - x), optimum(model, x, y, norm)
    assert (size >= best * (1 - 1e-4)).all()
    if norm == "l0":
        assert (size <= best + 2).all() and (size == best).double().mean() > 0.8
    else:
        assert (size <= best * 1.01).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_target_is_reached_by_as_little(norm):
    model, x = flatter(2), images(N)
    y = model(x).argmax(dim=1)
    made, _ = run(model, x, Goal.targeted(1 - y), norm)
    assert (model(made).argmax(dim=1) == 1 - y).all()
    size, best = Budget(norm, math.inf).size(made - x), optimum(model, x, y, norm)
    assert (size <= best * 1.01 + 2 * (norm == "l0")).all()


@pytest.mark.parametrize("norm", NORMS)
def test_more_steps_find_smaller_examples_and_few_never_break(norm):
    model, x = conv(), images(N)
    goal = Goal.untargeted(model(x).argmax(dim=1))
    medians = []
    for steps in (1, 50, 100):
        made, view = run(model, x, goal, norm, steps=steps)
        assert (view.counts.forward == steps + 1).all()
        won = goal.reached(Output.of(model(made).detach()))
        size = torch.where(won, Budget(norm, math.inf).size(made - x), math.inf)
        medians.append(float(size.median()))
    assert medians[2] <= medians[1] <= medians[0] and math.isfinite(medians[2])


def test_a_sample_that_is_not_won_comes_back_nearer_to_the_goal():
    model, x = flatter(2), images(N)
    goal = Goal.targeted(1 - model(x).argmax(dim=1))
    made, _ = run(model, x, goal, "l2", steps=1, alpha=1e-3)
    with torch.no_grad():
        before, after = goal.margin(Output.of(model(x))), goal.margin(Output.of(model(made)))
    assert (before < after).all() and (after < 0).any()


def test_a_sample_already_won_is_returned_as_it_is_after_one_look():
    model, x = flatter(2), images(N)
    y = model(x).argmax(dim=1)
    y[::2] = 1 - y[::2]
    made, view = run(model, x, Goal.untargeted(y), "l2", steps=10)
    assert torch.equal(made[::2], x[::2]) and (made[1::2] != x[1::2]).flatten(1).any(dim=1).all()
    assert (view.counts.forward[::2] == 1).all() and (view.counts.forward[1::2] == 11).all()


@pytest.mark.parametrize("norm", NORMS)
def test_an_accepted_example_is_found_where_the_nearest_one_is_rejected(norm):
    model, x = flatter(3), images(N) * 0.2 + 0.4
    system = Defended(Detector(model, threshold=0.5).eval())
    dim = x - x.flatten(1).mean(dim=1).reshape(-1, 1, 1, 1) + 0.499  # just accepted
    goal = Goal.untargeted(model(dim).argmax(dim=1))
    naive, _ = run(model, dim, goal, norm)
    rejected = ~system(naive, seeds(N)).accepted
    assert 5 < int(rejected.sum()) < N
    made = fmn(view_of(system, N), dim, goal, Budget(norm, math.inf), seeds(N))
    assert goal.reached(system(made, seeds(N))).double().mean() >= 0.95


@pytest.mark.usefixtures("bfloat16")
def test_a_win_in_bfloat16_alone_is_not_believed():
    model, x = flatter(2), images(N)
    x = x[model(x).argmax(dim=1) == 0]
    goal = Goal.untargeted(torch.zeros(len(x), dtype=torch.int64))
    made = fmn(
        view_of(WrongInBfloat16(model), len(x), fast=True), x, goal, Budget("l2", math.inf), seeds(len(x))
    )
    assert len(x) > 5 and (model(made).argmax(dim=1) == 1).all()


@pytest.mark.parametrize("norm", NORMS)
def test_bfloat16_costs_neither_success_nor_size(norm):
    model, x = conv(), images(N)
    goal = Goal.untargeted(model(x).argmax(dim=1))
    plain, _ = run(model, x, goal, norm)
    view = view_of(model, N, fast=True)
    made = fmn(view, x, goal, Budget(norm, math.inf), seeds(N))
    size = Budget(norm, math.inf).size
    assert goal.reached(Output.of(model(made))).all()
    assert size(made - x).median() <= size(plain - x).median() * 1.03
    assert (view.counts.forward <= fmn.info.passes({"steps": 100})).all()


@pytest.mark.parametrize("norm", NORMS)
def test_logits_scaled_down_change_little(norm):
    model, x = flatter(2), images(N)
    y = model(x).argmax(dim=1)
    plain, _ = run(model, x, Goal.untargeted(y), norm)
    with torch.no_grad():
        model.weight.mul_(2.0**-70)  # squares of these are 0 in float32
        model.bias.mul_(2.0**-70)
    tiny, _ = run(model, x, Goal.untargeted(y), norm)
    assert (model(tiny).argmax(dim=1) != y).all()
    size = Budget(norm, math.inf).size
    assert size(tiny - x).median() <= size(plain - x).median() * 1.01


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("masked", [-math.inf, -1e9])
def test_a_masked_class_costs_nothing(norm, masked):
    model, x = flatter(2), images(N)
    y = model(x).argmax(dim=1)
    with_more = torch.nn.Sequential(model, torch.nn.ConstantPad1d((0, 2), masked))
    made, _ = run(with_more, x, Goal.untargeted(y), norm)
    assert (model(made).argmax(dim=1) != y).all()
    size, best = Budget(norm, math.inf).size(made - x), optimum(model, x, y, norm)
    assert (size <= best * 1.01 + 2 * (norm == "l0")).all()


def test_the_only_class_that_is_not_masked_can_be_a_target():
    model, x = flatter(2), images(4)
    only = torch.nn.Sequential(model, torch.nn.ConstantPad1d((-1, 1), -math.inf))
    made, view = run(only, x, Goal.targeted(torch.zeros(4, dtype=torch.int64)), "l2")
    assert torch.equal(made, x) and view.counts.forward.tolist() == [1] * 4


@pytest.mark.parametrize("norm", NORMS)
def test_a_model_without_slope_leaves_the_image(norm):
    model, x = flatter(2), images(N)
    with torch.no_grad():
        model.weight.zero_()
    made, _ = run(model, x, Goal.untargeted(model(x).argmax(dim=1)), norm, steps=5)
    assert torch.equal(made, x)


@pytest.mark.parametrize("norm", NORMS)
def test_each_sample_is_projected_on_its_own_ball(norm):
    delta = images(5, (3, 6, 6)) - 0.5
    radius = torch.tensor([1.0, 2.0, 5.0, 40.0, 200.0]) * (1 if norm in ("l0", "l1") else 0.04)
    radius = radius.clamp(max=108 if norm == "l0" else 1e9)
    made = project(delta, radius, norm)
    for i, r in enumerate(radius.tolist()):
        assert torch.allclose(
            made[i], Budget(norm, min(r, 1.0) if norm == "linf" else r).project(delta)[i], atol=1e-6
        )
    assert torch.equal(made[4], delta[4])  # inside already


def test_the_projection_on_a_point_and_of_ties_ends():
    delta = torch.ones(2, 1, 4, 4)
    assert torch.equal(project(delta, torch.tensor([0.0, 0.0]), "l1"), torch.zeros_like(delta))
    assert torch.allclose(project(delta, torch.tensor([4.0, 32.0]), "l1")[0], torch.full((1, 4, 4), 0.25))


def test_a_finite_budget_is_kept():
    model, x = flatter(2), images(N)
    goal = Goal.untargeted(model(x).argmax(dim=1))
    free, _ = run(model, x, goal, "l2")
    size = Budget("l2", math.inf).size(free - x)
    eps = float(size.median())
    made, _ = run(model, x, goal, "l2", eps=eps)
    assert Budget("l2", eps).contains(made - x).all()
    assert torch.equal(made[size <= eps], free[size <= eps]) and bool((size > eps).any())


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"alpha": 0.0}, {"gamma": 0.0}, {"gamma": 1.0}])
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=str(next(iter(wrong.values())))):
        run(conv(), images(4), Goal.untargeted(torch.zeros(4, dtype=torch.int64)), "l2", **wrong)


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_that_are_no_numbers_make_no_image_that_is_none(norm):
    class NotANumber(torch.nn.Module):
        def forward(self, x):
            passed = x * 1
            if passed.requires_grad:
                passed.register_hook(lambda grad: grad * torch.where(x[:, :1, :1, :1] > 0.5, math.nan, 1.0))
            return flatter(2)(passed)

    y = torch.zeros(N, dtype=torch.int64)
    made, _ = run(NotANumber(), images(N), Goal.untargeted(y), norm, steps=5)
    assert made.isfinite().all() and ((made >= 0) & (made <= 1)).all()

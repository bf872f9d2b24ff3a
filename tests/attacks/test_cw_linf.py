"""Carlini and Wagner in linf against optima known in closed form."""

from __future__ import annotations

import itertools

import pytest
import torch
from planted import Detector, Linear, conv, images, seeds
from rbg_attacks._cw_linf import _Shrinking, cw_linf
from rbg_attacks._runs import confirmed_passes

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import norm_of
from robustbench_gan.nouns.outcome import Goal, Output

N = 8


def view_of(system, n=N, **options):
    system = system if isinstance(system, Defended) else Bare(system)
    return View.on(system, seeds(n), **{"whole_batches": True, "exact": True, **options})


def interior(n=N, shape=(1, 4, 4)):
    return images(n, shape) * 0.2 + 0.4


def two_classes():
    """A linear model of two classes, images with their labels, and the linf distance to the boundary."""
    model, x = Linear(2), interior()
    with torch.no_grad():
        logits = model(x)
        model.bias[0] += (logits[:, 1] - logits[:, 0]).median() + 0.1  # half of them on either side
    y = model(x).argmax(dim=1)
    assert len(y.unique()) == 2
    w = (model.weight[0] - model.weight[1]).detach()
    logits = model(x).detach()
    return model, x, y, (logits[:, 0] - logits[:, 1]).abs() / w.abs().sum()


def assert_wins(model, made, goal):
    assert goal.reached(Output.of(model(made).detach())).all()


@pytest.mark.parametrize("kind", ["untargeted", "targeted"])
def test_on_a_linear_model_the_optimum(kind):
    model, x, y, optimum = two_classes()
    goal = Goal.untargeted(y) if kind == "untargeted" else Goal.targeted(1 - y)
    made = cw_linf(view_of(model), x, goal)
    assert_wins(model, made, goal)
    size = norm_of(made - x, "linf")
    assert (size >= optimum * (1 - 1e-4)).all() and (size <= optimum * 1.02).all()


def test_where_the_box_is_in_the_way_the_other_pixels_go_further():
    model, x, y, _ = two_classes()
    w = (model.weight[1 - y] - model.weight[y]).detach()
    x = torch.where(w.view_as(x) > 1, 1.0, x)  # these would have to rise
    y = model(x).argmax(dim=1)
    goal = Goal.untargeted(y)
    w, gap = (model.weight[1 - y] - model.weight[y]).detach(), -goal.margin(Output.of(model(x))).detach()
    room = torch.where(w > 0, 1 - x.flatten(1), x.flatten(1))
    sizes = torch.linspace(0, 1, 10001)
    gain = (w.abs()[:, None] * torch.minimum(room[:, None], sizes[None, :, None])).sum(dim=2)
    reachable = gain[:, -1] > gap
    assert reachable.sum() >= 4
    optimum = sizes[(gain >= gap[:, None]).double().argmax(dim=1)]
    made = cw_linf(view_of(model), x, goal)
    size = norm_of(made - x, "linf")[reachable]
    assert (size >= optimum[reachable] - 2e-4).all() and (size <= optimum[reachable] * 1.02).all()
    assert torch.equal(goal.reached(Output.of(model(made))), reachable)


def test_a_larger_c_may_leave_the_cube_and_is_no_better():
    model, x, y, optimum = two_classes()
    made = cw_linf(view_of(model), x, Goal.untargeted(y), initial_const=20.0)
    assert_wins(model, made, Goal.untargeted(y))
    size = norm_of(made - x, "linf")
    assert (size >= optimum * (1 - 1e-4)).all() and (size <= optimum * 1.25).all()


def test_the_penalty_pulls_back_what_left_the_cube_as_far_as_its_wall():
    x = torch.full((1, 1, 1, 5), 0.5)
    search = _Shrinking(x, 0.9)
    delta = torch.tensor([0.3, -0.3, 0.12, 0.05, 0.9]).view_as(x)
    search._place(torch.tensor([0]), delta, torch.full((1, 1, 1, 1), 0.1), torch.full_like(x, 0.05))
    assert torch.allclose(search.at.flatten(), torch.tensor([0.75, 0.25, 0.6, 0.55, 1.0]))


def test_more_steps_never_find_worse():
    model, x = conv(), interior()
    y = model(x).argmax(dim=1)
    sizes = []
    for steps in (30, 60, 120, 400):
        made = cw_linf(view_of(model), x, Goal.targeted((y + 1) % 3), steps=steps)
        won = Goal.targeted((y + 1) % 3).reached(Output.of(model(made)))
        sizes.append(torch.where(won, norm_of(made - x, "linf"), torch.inf))
    for fewer, more in itertools.pairwise(sizes):
        assert (more <= fewer).all()
    assert (sizes[-1] < sizes[0]).any() and sizes[-1].isfinite().all()


def test_finished_samples_stop_costing_and_their_neighbours_do_not_matter():
    model, x, y, _ = two_classes()
    y = torch.where(torch.arange(N) < 3, 1 - y, y)  # the first three are won as they are
    view = view_of(model)
    made = cw_linf(view, x, Goal.untargeted(y))
    assert torch.equal(made[:3], x[:3]) and view.counts.forward[:3].tolist() == [1] * 3
    assert (view.counts.forward[3:] > 20).all() and len(view.counts.forward.unique()) > 2
    alone = cw_linf(view_of(model, 1), x[5:6], Goal.untargeted(y[5:6]))
    assert torch.allclose(alone[0], made[5], atol=1e-6)


@pytest.mark.parametrize("fast", [False, True])
def test_what_cannot_be_won_is_brought_near_in_no_more_than_its_passes(fast):
    model = Linear(2)
    with torch.no_grad():
        model.bias[0] += 1000
    x, goal = interior(), Goal.untargeted(torch.zeros(N, dtype=torch.int64))
    for early in (False, True):
        view = view_of(model, fast=fast)
        made = cw_linf(view, x, goal, steps=300, abort_early=early)
        assert (goal.margin(Output.of(model(made))) > goal.margin(Output.of(model(x)))).all()
        assert (view.counts.forward <= confirmed_passes(300)).all()


@pytest.mark.usefixtures("bfloat16")
def test_in_bfloat16_a_success_is_one_in_float32():
    model, x, y, optimum = two_classes()
    view = view_of(model, fast=True)
    made = cw_linf(view, x, Goal.untargeted(y))
    assert_wins(model, made, Goal.untargeted(y))
    assert (norm_of(made - x, "linf") >= optimum * (1 - 1e-4)).all()
    assert (view.counts.forward > view.counts.backward).all()  # they were asked again


def test_detectors_are_got_past_too():
    defense = Detector(Linear(3), threshold=0.5)
    x = interior() - 0.05
    y = defense.base(x).argmax(dim=1)
    goal = Goal.untargeted(y)
    made = cw_linf(view_of(Defended(defense)), x, goal)
    assert goal.reached(defense(made, seeds(N))).double().mean() >= 0.75
    blind = cw_linf(view_of(defense.base), x, goal)  # the same model without its detector falls to less
    assert (norm_of(made - x, "linf") >= norm_of(blind - x, "linf") * 0.98).all()


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"lr": 0}, {"initial_const": 0}, {"decrease_factor": 1.0}, {"patience": 0}]
)
def test_absurd_parameters_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        cw_linf(view_of(Linear(2)), interior(), Goal.untargeted(torch.zeros(N, dtype=torch.int64)), **bad)

"""Carlini and Wagner in l0 against optima known in closed form."""

from __future__ import annotations

import pytest
import torch
from planted import Detector, Linear, conv, images, seeds
from rbg_attacks._cw_l0 import _towards_minimiser, cw_l0
from rbg_attacks._runs import confirmed_passes
from torch import nn

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import norm_of
from robustbench_gan.nouns.outcome import Goal, Output

N = 8


def view_of(system, n=N, **options):
    system = system if isinstance(system, Defended) else Bare(system)
    return View.on(system, seeds(n), **{"whole_batches": True, "exact": True, **options})


def linear(shape=(1, 6, 6), grey=False):
    """A model of two classes, images, labels, and what each value can gain at most, (N, D), of the gap, (N,)."""
    model, x = Linear(2, shape), images(N, shape)
    x = torch.full_like(x, 0.5) if grey else x
    with torch.no_grad():
        model.bias += torch.tensor([6.0, 0.0])  # far from the boundary: several values are needed
    y = model(x).argmax(dim=1)
    w = (model.weight[1 - y] - model.weight[y]).detach()
    room = torch.where(w > 0, 1 - x.flatten(1), x.flatten(1))
    return model, x, y, w.abs() * room, -Goal.untargeted(y).margin(Output.of(model(x))).detach()


class Times(nn.Module):
    """A model whose logits are multiplied."""

    def __init__(self, inner, by):
        super().__init__()
        self.inner, self.by = inner, by

    def forward(self, x):
        return self.by * self.inner(x)


def greedy(gains, gap):
    """The fewest values, (N,), whose gains together exceed the gap."""
    reach = gains.sort(dim=1, descending=True).values.cumsum(dim=1)
    assert (reach[:, -1] > gap).all()
    return (reach <= gap[:, None]).sum(dim=1) + 1


@pytest.mark.parametrize("kind", ["untargeted", "targeted"])
@pytest.mark.parametrize("grey", [True, False])
def test_on_a_linear_model_the_fewest_values(kind, grey):
    model, x, y, gains, gap = linear(grey=grey)
    goal = Goal.untargeted(y) if kind == "untargeted" else Goal.targeted(1 - y)
    made = cw_l0(view_of(model), x, goal)
    assert goal.reached(Output.of(model(made))).all()
    optimum, size = greedy(gains, gap), norm_of(made - x, "l0")
    assert optimum.max() >= 3
    assert (size >= optimum).all() and (size <= optimum + 1).all()
    assert (size == optimum).double().mean() >= 0.75


def test_of_a_colour_image_whole_pixels_are_spared_first_and_then_single_values():
    model, x, y, gains, gap = linear(shape=(3, 6, 6))
    made = cw_l0(view_of(model), x, Goal.untargeted(y))
    assert Goal.untargeted(y).reached(Output.of(model(made))).all()
    pixels = (made != x).any(dim=1).flatten(1).sum(dim=1)
    assert (pixels <= greedy(gains.view(N, 3, 36).sum(dim=1), gap) + 1).all()
    values = norm_of(made - x, "l0")
    assert (values >= greedy(gains, gap)).all() and (values < 3 * pixels).any()


@pytest.mark.parametrize("scale", [2.0**-7, 2.0**7])
def test_few_steps_get_as_far_whatever_the_scale_of_the_logits(scale):
    """In powers of two, so that nothing rounds otherwise."""
    model, x, y, _, _ = linear()

    def found(k):
        view = view_of(Times(model, k))
        return cw_l0(view, x, Goal.untargeted(y), steps=12)

    assert torch.equal(found(1.0), found(scale)) and (found(1.0) != x).any()


def test_a_step_goes_halfway_to_the_smallest_perturbation_in_the_box_that_succeeds():
    x = torch.tensor([0.5, 0.9, 0.2, 0.5]).view(1, 1, 2, 2)
    grad = torch.tensor([1.0, 2.0, -1.0, 0.0]).view_as(x)
    moved = _towards_minimiser(
        x, x, torch.tensor([-0.49]), grad, torch.tensor([1.0]), 1e-3, 1e6, torch.ones(1)
    )  # a gain of 0.5: 0.1 * 2 from the pixel at its wall, 0.15 from each of two
    assert torch.allclose((moved - x).flatten(), torch.tensor([0.15, 0.1, -0.15, 0.0]) / 2, atol=1e-6)
    capped = _towards_minimiser(
        x, x, torch.tensor([-0.49]), grad, torch.tensor([1.0]), 1e-3, 0.02, torch.ones(1)
    )
    assert torch.allclose((capped - x).flatten(), torch.tensor([0.02, 0.04, -0.02, 0.0]) / 2, atol=1e-6)


def test_unchanged_values_are_the_image_s_own_bits():
    model, x, y, _, _ = linear()
    made = cw_l0(view_of(model), x, Goal.untargeted(y))
    assert ((made - x).abs() > 1e-3).flatten(1).sum(dim=1).equal(norm_of(made - x, "l0").long())


def test_more_steps_never_find_worse():
    model, x = conv(), images(N)
    y = model(x).argmax(dim=1)
    goal = Goal.targeted((y + 1) % 3)
    sizes = []
    for steps in (10, 40, 400):
        made = cw_l0(view_of(model), x, goal, steps=steps)
        sizes.append(torch.where(goal.reached(Output.of(model(made))), norm_of(made - x, "l0"), torch.inf))
    assert (sizes[1] <= sizes[0]).all() and (sizes[2] <= sizes[1]).all()
    assert (sizes[2] < sizes[0]).any() and sizes[2].isfinite().double().mean() >= 0.75


def test_finished_samples_stop_costing_and_their_neighbours_do_not_matter():
    model, x, y, _, _ = linear()
    y = torch.where(torch.arange(N) < 3, 1 - y, y)  # the first three are won as they are
    view = view_of(model)
    made = cw_l0(view, x, Goal.untargeted(y))
    assert torch.equal(made[:3], x[:3]) and view.counts.forward[:3].tolist() == [1] * 3
    assert (view.counts.forward[3:] > 10).all() and len(view.counts.forward.unique()) > 2
    alone = cw_l0(view_of(model, 1), x[5:6], Goal.untargeted(y[5:6]))
    assert torch.allclose(alone[0], made[5], atol=1e-6)


@pytest.mark.parametrize("fast", [False, True])
def test_what_cannot_be_won_is_given_back_after_no_more_than_its_passes(fast):
    model, x, _, _, _ = linear()
    with torch.no_grad():
        model.bias[0] += 1000
    goal = Goal.untargeted(torch.zeros(N, dtype=torch.int64))
    for early in (False, True):
        view = view_of(model, fast=fast)
        assert torch.equal(cw_l0(view, x, goal, steps=200, abort_early=early), x)
        assert (view.counts.forward <= confirmed_passes(200)).all()


@pytest.mark.usefixtures("bfloat16")
def test_in_bfloat16_a_success_is_one_in_float32():
    model, x, y, gains, gap = linear()
    view = view_of(model, fast=True)
    made = cw_l0(view, x, Goal.untargeted(y))
    assert Goal.untargeted(y).reached(Output.of(model(made))).all()
    assert (norm_of(made - x, "l0") <= greedy(gains, gap) + 2).all()
    assert (view.counts.forward > view.counts.backward).all()  # they were asked again


def test_detectors_are_got_past_too():
    defense = Detector(Linear(3), threshold=0.5)
    x = images(N) * 0.2 + 0.35
    goal = Goal.untargeted(defense.base(x).argmax(dim=1))
    made = cw_l0(view_of(Defended(defense)), x, goal)
    assert goal.reached(defense(made, seeds(N))).double().mean() >= 0.75


@pytest.mark.parametrize(
    "bad",
    [{"steps": 0}, {"lr": 0}, {"initial_const": 0}, {"largest_const": 1e-9}, {"const_factor": 0.5},
     {"freeze": 0}, {"patience": 0}],
)  # fmt: skip
def test_absurd_parameters_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        cw_l0(view_of(Linear(2)), images(N), Goal.untargeted(torch.zeros(N, dtype=torch.int64)), **bad)

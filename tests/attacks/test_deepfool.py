"""DeepFool against the closed form on linear models, and what it does at detectors, in bfloat16 and without slopes."""

from __future__ import annotations

import math

import pytest
import torch
from planted import Detector, WrongInBfloat16, conv, flatter, images, seeds, view_of
from rbg_attacks.deepfool import NUDGE, _slopes, deepfool

from robustbench_gan.base.errors import NotApplicable, UsageError
from robustbench_gan.contracts.systems import Defended
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

N = 40
NORMS = ("l2", "linf")
DUAL = {"l2": 2, "linf": 1}


def middle():
    """Images that a step of the sizes here does not take out of the box."""
    return images(N) * 0.2 + 0.4


def boundaries(model, x, y, norm):
    """The distance to the boundary with each class, (N, K), infinite for the class y itself."""
    logits = model(x)
    gaps = logits.gather(1, y[:, None]) - logits
    normals = model.weight[None] - model.weight[y][:, None]
    return (gaps / normals.norm(p=DUAL[norm], dim=2)).scatter(1, y[:, None], math.inf).detach()


def run(model, x, goal, norm, eps=math.inf, **parameters):
    view = view_of(model, len(x))
    return deepfool(view, x, goal, Budget(norm, eps), seeds(len(x)), **parameters), view


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("overshoot", [0.02, 0.3])
def test_one_step_on_a_linear_model_is_the_closed_form(norm, overshoot):
    model, x = flatter(), middle()
    y = model(x).argmax(dim=1)
    made, _ = run(model, x, Goal.untargeted(y), norm, steps=1, overshoot=overshoot)
    assert ((made > 0) & (made < 1)).all()  # nothing was clipped
    assert (model(made).argmax(dim=1) != y).all()
    wanted = (boundaries(model, x, y, norm).amin(dim=1) + NUDGE) * (1 + overshoot)
    assert torch.allclose(Budget(norm, math.inf).size(made - x), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_one_step_to_a_target_is_the_closed_form(norm):
    model, x = flatter(classes=2), middle()
    y = model(x).argmax(dim=1)
    made, _ = run(model, x, Goal.targeted(1 - y), norm, steps=1)
    assert (model(made).argmax(dim=1) == 1 - y).all()
    wanted = (boundaries(model, x, y, norm).amin(dim=1) + NUDGE) * 1.02
    assert torch.allclose(Budget(norm, math.inf).size(made - x), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_every_target_is_reached(norm):
    model, x = flatter(), middle()
    target = torch.arange(N) % 3
    made, _ = run(model, x, Goal.targeted(target), norm)
    assert (model(made).argmax(dim=1) == target).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_single_candidate_is_the_runner_up(norm):
    model, x = flatter(classes=6), middle()
    logits = model(x)
    y = logits.argmax(dim=1)
    made, _ = run(model, x, Goal.untargeted(y), norm, steps=1, candidates=1)
    second = logits.topk(2, dim=1).indices[:, 1:]
    all_of_them = boundaries(model, x, y, norm)
    wanted = all_of_them.gather(1, second)[:, 0]
    assert (wanted > all_of_them.amin(dim=1) * 1.01).any()  # another boundary would have been nearer for some
    size = Budget(norm, math.inf).size(made - x)
    assert torch.allclose(size, (wanted + NUDGE) * 1.02, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_classes_left_out_are_further_than_the_nearest(norm):
    model, x = flatter(classes=12, seed=3), middle()
    y = model(x).argmax(dim=1)
    view = view_of(model, N)
    active, slope = _slopes(view, x, Goal.untargeted(y), norm, 11)
    assert torch.equal(active, torch.arange(N))
    normals = model.weight[None] - model.weight[y][:, None]
    exact = normals.norm(p=DUAL[norm], dim=2).double()
    looked_at = slope > 0
    assert torch.allclose(slope[looked_at], exact[looked_at], rtol=1e-5)
    far = boundaries(model, x, y, norm)
    assert (looked_at.gather(1, far.argmin(dim=1, keepdim=True))).all()
    assert view.counts.backward.double().mean() < 10  # of the 12 that all classes take


def test_a_sample_already_misclassified_is_returned_as_it_is():
    model, x = flatter(), middle()
    y = model(x).argmax(dim=1)
    y[::2] = (y[::2] + 1) % 3
    made, view = run(model, x, Goal.untargeted(y), "l2")
    assert torch.equal(made[::2], x[::2]) and (made[1::2] != x[1::2]).flatten(1).any(dim=1).all()
    assert (view.counts.forward[::2] == 1).all()  # and costs one look


@pytest.mark.parametrize("norm", NORMS)
def test_an_accepted_example_is_found_where_the_nearest_one_is_rejected(norm):
    model, x = flatter(), middle()
    system = Defended(Detector(model, threshold=0.5).eval())
    dim = x - x.flatten(1).mean(dim=1).reshape(-1, 1, 1, 1) + 0.499  # just accepted
    goal = Goal.untargeted(model(dim).argmax(dim=1))
    naive, _ = run(model, dim, goal, norm)
    rejected = ~system(naive, seeds(N)).accepted
    assert 5 < int(rejected.sum()) < N
    made = deepfool(view_of(system, N), dim, goal, Budget(norm, math.inf), seeds(N))
    assert goal.reached(system(made, seeds(N))).all()
    size = Budget(norm, math.inf).size
    assert torch.allclose(size(made - dim)[~rejected], size(naive - dim)[~rejected], atol=1e-6)


@pytest.mark.usefixtures("bfloat16")
def test_a_win_in_bfloat16_alone_is_not_believed():
    model, x = flatter(), middle()
    keep = model(x).argmax(dim=1) == 0
    x, y = x[keep], torch.zeros(int(keep.sum()), dtype=torch.int64)
    view = view_of(WrongInBfloat16(model), len(x), fast=True)
    made = deepfool(view, x, Goal.untargeted(y), Budget("l2", math.inf), seeds(len(x)))
    assert len(x) > 5 and not torch.equal(made, x)
    assert (model(made).argmax(dim=1) != y).all()


def test_bfloat16_costs_neither_success_nor_size():
    x, model = images(N), conv()
    goal = Goal.untargeted(model(x).argmax(dim=1))
    plain, _ = run(model, x, goal, "l2")
    made = deepfool(view_of(model, N, fast=True), x, goal, Budget("l2", math.inf), seeds(N))
    with torch.no_grad():
        exact, fast = goal.reached(Output.of(model(plain))), goal.reached(Output.of(model(made)))
    assert fast.sum() >= exact.sum() - 1 and fast.sum() > 0.9 * N
    size = Budget("l2", math.inf).size
    assert size(made - x)[fast].median() <= size(plain - x)[exact].median() * 1.03


@pytest.mark.parametrize("norm", NORMS)
def test_logits_scaled_down_change_nothing(norm):
    x, model = middle(), flatter()
    y = model(x).argmax(dim=1)
    plain, _ = run(model, x, Goal.untargeted(y), norm, steps=1)
    with torch.no_grad():
        model.weight.mul_(2.0**-70)  # squares of these are 0 in float32
        model.bias.mul_(2.0**-70)
    tiny, _ = run(model, x, Goal.untargeted(y), norm, steps=1)
    assert torch.allclose(plain, tiny, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_a_model_without_slope_leaves_the_image(norm):
    model, x = flatter(), middle()
    with torch.no_grad():
        model.weight.zero_()
    y = model(x).argmax(dim=1)
    made, _ = run(model, x, Goal.untargeted(y), norm, steps=3)
    assert torch.equal(made, x)


def test_a_finite_budget_is_kept():
    model, x = flatter(), middle()
    y = model(x).argmax(dim=1)
    free, _ = run(model, x, Goal.untargeted(y), "l2")
    size = Budget("l2", math.inf).size(free - x)
    eps = float(size.median())
    made, _ = run(model, x, Goal.untargeted(y), "l2", eps=eps)
    assert Budget("l2", eps).contains(made - x).all()
    assert torch.equal(made[size <= eps], free[size <= eps]) and bool((size > eps).any())


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"overshoot": -0.1}, {"candidates": 0}])
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match=str(next(iter(wrong.values())))):
        run(conv(), images(4), Goal.untargeted(torch.zeros(4, dtype=torch.int64)), "l2", **wrong)


@pytest.mark.parametrize("norm", ["l0", "l1"])
def test_other_norms_are_declined(norm):
    with pytest.raises(NotApplicable, match=norm):
        run(conv(), images(4), Goal.untargeted(torch.zeros(4, dtype=torch.int64)), norm)


@pytest.mark.parametrize("norm", NORMS)
def test_gradients_that_are_no_numbers_make_no_image_that_is_none(norm):
    class NotANumber(torch.nn.Module):
        def forward(self, x):
            passed = x * 1
            if passed.requires_grad:
                passed.register_hook(lambda grad: grad * torch.where(x[:, :1, :1, :1] > 0.5, math.nan, 1.0))
            return flatter()(passed)

    y = torch.zeros(N, dtype=torch.int64)
    made, _ = run(NotANumber(), images(N), Goal.untargeted(y), norm, steps=5)
    assert made.isfinite().all() and ((made >= 0) & (made <= 1)).all()

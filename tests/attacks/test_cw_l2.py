"""C&W in l2 against the closed form on linear models, the search for c, and what its presets promise."""

from __future__ import annotations

import pytest
import torch
from planted import Detector, Linear, conv, images, seeds
from rbg_attacks import _cw_l2
from rbg_attacks.cw import cw
from torch import nn

from robustbench_gan.base.errors import NotApplicable, UsageError
from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

pytestmark = pytest.mark.rounding

N = 8
L2 = Budget("l2", float("inf"))
CHEAP = {"preset": "original", "steps": 100, "lr": 0.05, "initial_const": 0.1, "search_steps": 7}
INSIDE, EDGE, CHEAPLY = 1.02, 1.07, 1.05  # times the closed form, as the docstring says


def view_of(model, n=N, **options):
    return View.on(Bare(model), seeds(n), **{"exact": True, **options})


def size(made, x):
    return (made - x).double().flatten(1).norm(dim=1)


def classified(model, x):
    with torch.no_grad():
        return model(x).argmax(dim=1)


def reach(model, x, source, target, margin=0.0):
    """The least l2 distance in the box at which `target` leads `source` by `margin` on a linear model, (N,).

    The minimiser is clip(x + s (w_t - w_s)) for the least s that leads: s is bisected in float64.
    """
    weight, bias = model.weight.detach().double(), model.bias.detach().double()
    pixels = x.double().flatten(1)
    towards = weight[target] - weight[source]
    need = margin - (bias[target] - bias[source])
    low, high = torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), 1e4, dtype=torch.float64)
    for _ in range(100):
        middle = (low + high) / 2
        at = (pixels + middle[:, None] * towards).clamp(0, 1)
        won = (at * towards).sum(dim=1) >= need
        low, high = torch.where(won, low, middle), torch.where(won, middle, high)
    distance = ((pixels + high[:, None] * towards).clamp(0, 1) - pixels).norm(dim=1)
    return torch.where(high < 9e3, distance, torch.inf)


def nearest(model, x, y, margin=0.0):
    classes = len(model.bias)
    each = [reach(model, x, y, torch.full_like(y, j), margin) for j in range(classes)]
    own = torch.nn.functional.one_hot(y, classes).bool()
    return torch.stack(each, dim=1).masked_fill(own, torch.inf).amin(dim=1)


def check_optimal(made, x, optimal, within):
    assert torch.isfinite(optimal).all()
    ratio = size(made, x) / optimal
    assert (ratio >= 1 - 1e-5).all()
    assert (ratio <= within).all(), ratio.max()


# ---- known answers


@pytest.mark.parametrize(
    ("x", "within"), [(images(N), INSIDE), (images(N).round(), EDGE)], ids=["inside", "edge"]
)
@pytest.mark.parametrize("model_seed", [1, 4, 5])
def test_fast_finds_the_closed_form_of_a_linear_model(x, within, model_seed):
    model = Linear(classes=2, seed=model_seed)
    y = classified(model, x)
    made = cw(view_of(model), x, Goal.untargeted(y), L2, seeds(N), preset="fast")
    assert Goal.untargeted(y).reached(Output.of(model(made))).all()
    check_optimal(made, x, nearest(model, x, y), within)


@pytest.mark.parametrize("parameters", [CHEAP, {"preset": "fast"}], ids=["original", "fast"])
def test_among_several_classes_most_images_go_to_the_nearest(parameters):
    model, x = Linear(classes=3), images(N)
    y = classified(model, x)
    made = cw(view_of(model), x, Goal.untargeted(y), L2, seeds(N), **parameters)
    ratio = size(made, x) / nearest(model, x, y)
    assert Goal.untargeted(y).reached(Output.of(model(made))).all()
    assert (ratio >= 1 - 1e-5).all() and ratio.median() < INSIDE


@pytest.mark.parametrize(
    ("parameters", "within"), [(CHEAP, CHEAPLY), ({"preset": "fast"}, INSIDE)], ids=["original", "fast"]
)
def test_a_target_is_reached_at_the_closed_form(parameters, within):
    model, x = Linear(classes=2), images(N)
    y = classified(model, x)
    made = cw(view_of(model), x, Goal.targeted(1 - y), L2, seeds(N), **parameters)
    assert torch.equal(classified(model, made), 1 - y)
    check_optimal(made, x, reach(model, x, y, 1 - y), within)


@pytest.mark.parametrize(
    ("parameters", "within"), [(CHEAP, CHEAPLY), ({"preset": "fast"}, INSIDE)], ids=["original", "fast"]
)
def test_kappa_is_the_lead_that_is_asked_for(parameters, within):
    model, x, kappa = Linear(classes=2), images(N), 1.5
    y = classified(model, x)
    goal = Goal.untargeted(y)
    made = cw(view_of(model), x, goal, L2, seeds(N), kappa=kappa, **parameters)
    assert (goal.margin(Output.of(model(made))) > kappa).all()
    check_optimal(made, x, reach(model, x, y, 1 - y, margin=kappa), within)


# ---- the search for c


def test_c_is_ten_times_more_until_it_succeeds_and_halfway_from_then_on():
    wins = [[False, True], [False, True], [True, False], [False, True], [True, True]]
    c, lower, upper = torch.full((2,), 1e-3), torch.zeros(2), torch.full((2,), torch.inf)
    seen = [c]
    for won in wins:
        lower, upper, c = _cw_l2.next_const(lower, upper, c, torch.tensor(won))
        seen.append(c)
    first = [1e-3, 1e-2, 1e-1, 0.055, 0.0775, 0.06625]
    second = [1e-3, 5e-4, 2.5e-4, 3.75e-4, 3.125e-4, 2.8125e-4]
    assert torch.allclose(torch.stack(seen), torch.tensor([first, second]).T, rtol=1e-5)


class Deaf(nn.Module):
    """Its gradient points somewhere, its answer never changes sides."""

    def forward(self, x):
        total = x.flatten(1).sum(dim=1)
        return torch.stack([total + 1000, -total], dim=1)


def test_a_search_that_never_succeeds_tries_ten_times_more_each_time_and_gives_x_back(monkeypatch):
    seen, real = [], _cw_l2.descend

    def spy(descent, best, c, *rest):
        seen.append(float(c[0]))
        return real(descent, best, c, *rest)

    monkeypatch.setattr(_cw_l2, "descend", spy)
    x, goal = images(2), Goal.untargeted(torch.zeros(2, dtype=torch.int64))
    made = cw(view_of(Deaf(), 2), x, goal, L2, seeds(2), steps=3, search_steps=4)
    assert torch.equal(made, x)
    assert seen == pytest.approx([1e-3, 1e-2, 1e-1, 1.0])
    seen.clear()
    cw(view_of(Deaf(), 2), x, goal, L2, seeds(2), steps=3, search_steps=10)
    assert seen[-1] == pytest.approx(1e10)  # the last of ten or more repeats the upper end
    assert torch.equal(cw(view_of(Deaf(), 2), x, goal, L2, seeds(2), preset="fast", steps=5), x)


# ---- cost


def test_a_sample_that_no_longer_moves_stops_costing_and_others_go_on():
    x, goal = images(2), Goal.untargeted(torch.zeros(2, dtype=torch.int64))

    def spent(abort_early):
        view = view_of(Deaf(), 2)
        cw(
            view, x, goal, L2, seeds(2), steps=100, lr=10.0, search_steps=1, initial_const=1.0,
            abort_early=abort_early,
        )  # fmt: skip
        return view.counts.backward

    assert (spent(False) == 100).all()
    assert (spent(True) <= 50).all()


def test_what_wins_as_it_is_comes_back_and_costs_one_look():
    model, x = conv(), images(N)
    y = (classified(model, x) + (torch.arange(N) < 3)) % 3
    view = view_of(model)
    made = cw(view, x, Goal.untargeted(y), L2, seeds(N), preset="fast", steps=10)
    assert torch.equal(made[:3], x[:3])
    assert view.counts.forward[:3].tolist() == [1, 1, 1] and not view.counts.backward[:3].any()
    assert (view.counts.backward[3:] == 10).all()


# ---- systems


@pytest.mark.parametrize("parameters", [CHEAP, {"preset": "fast"}], ids=["original", "fast"])
def test_gradients_in_bfloat16_bring_no_false_success(parameters):
    model, x = conv(), images(N)
    y = classified(model, x)
    goal, short = Goal.untargeted(y), {**parameters, "steps": 50}
    made = cw(view_of(model, fast=True), x, goal, L2, seeds(N), **short)
    exact = cw(view_of(model), x, goal, L2, seeds(N), **short)
    assert goal.reached(Output.of(model(made))).all()
    assert size(made, x).median() <= size(exact, x).median() * 1.02


def test_a_detector_is_passed_too():
    x = images(N) * 0.2 + 0.38  # bright images are rejected, and these nearly are
    system = Detector(Linear(classes=2, seed=3), threshold=0.5)
    y = classified(system.core, x)
    view = View.on(Defended(system), seeds(N), exact=True)
    made = cw(view, x, Goal.untargeted(y), L2, seeds(N), preset="fast", steps=200)
    out = view.output(made)
    assert out.accepted.all() and (out.logits.argmax(dim=1) != y).all()


def test_the_numbers_of_defense_gan_s_code_are_not_minimal():
    model, x = Linear(), images(N)
    y = classified(model, x)
    view = view_of(model)
    made = cw(view, x, Goal.untargeted(y), L2, seeds(N), preset="defense-gan", abort_early=False)
    assert (view.counts.backward == 100).all()
    assert Goal.untargeted(y).reached(Output.of(model(made))).all()
    assert size(made, x).median() > 1.5 * nearest(model, x, y).median()


# ---- what it refuses


def test_numbers_without_a_meaning_are_errors():
    x, goal = images(2), Goal.untargeted(torch.zeros(2, dtype=torch.int64))
    for wrong in ({"steps": -1}, {"kappa": -0.5}, {"preset": "fast", "lr": 0.1}):
        with pytest.raises(UsageError):
            cw(view_of(conv(), 2), x, goal, L2, seeds(2), **wrong)
    with pytest.raises(UsageError, match="kappa"):
        cw(view_of(conv(), 2), x, goal, Budget("l0", float("inf")), seeds(2), kappa=1.0)
    with pytest.raises(NotApplicable):
        cw(view_of(conv(), 2), x, goal, Budget("linf", float("inf")), seeds(2), preset="fast")

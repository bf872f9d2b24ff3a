"""C&W's margin inside a ball against the closed form on linear models."""

from __future__ import annotations

import pytest
import torch
from planted import Linear, conv, images, seeds
from rbg_attacks.bim import bim
from rbg_attacks.cw_bounded import cw_bounded

from robustbench_gan.base.errors import NotApplicable, UsageError
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

N = 8


def view_of(model, **options):
    return View.on(Bare(model), seeds(N), **options)


def margin(model, goal, x):
    with torch.no_grad():
        return goal.margin(Output.of(model(x)))


def largest_margin(model, x, y, budget):
    """Of a two-class linear model inside ball and box: in linf each pixel on its own, in l2 along the weights."""
    towards = (model.weight[1 - y] - model.weight[y]).detach().view_as(x)
    if budget.norm == "linf":
        return margin(model, Goal.untargeted(y), (x + budget.eps * towards.sign()).clamp(0, 1))
    low, high = torch.zeros(N), torch.full((N,), 1e3)
    for _ in range(60):  # the longest s at which clip(x + s w) is still in the ball
        middle = (low + high) / 2
        inside = budget.size((x + middle.view(-1, 1, 1, 1) * towards).clamp(0, 1) - x) <= budget.eps
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return margin(model, Goal.untargeted(y), (x + low.view(-1, 1, 1, 1) * towards).clamp(0, 1))


@pytest.mark.parametrize("budget", [Budget("linf", 0.1), Budget("l2", 0.4)], ids=str)
@pytest.mark.parametrize("targeted", [False, True])
def test_the_largest_margin_of_a_linear_model(budget, targeted):
    model, x = Linear(classes=2), images(N)
    y = model(x).argmax(dim=1)
    goal = Goal.targeted(1 - y) if targeted else Goal.untargeted(y)
    made = cw_bounded(view_of(model), x, goal, budget, seeds(N))
    found, start = margin(model, goal, made), margin(model, goal, x)
    best = largest_margin(model, x, y, budget)
    assert (found <= best + 1e-4).all()
    assert (found - start >= 0.99 * (best - start)).all()


def test_a_won_sample_stops_where_the_view_is_exact():
    model, x = Linear(), images(N)
    goal = Goal.untargeted(model(x).argmax(dim=1))
    view = view_of(model, exact=True)
    made = cw_bounded(view, x, goal, Budget("linf", 0.5), seeds(N), steps=50)
    assert (margin(model, goal, made) > 0).all()
    assert (view.counts.backward < 50).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_reaches_what_bim_reaches(norm):
    model, x = conv(), images(N)
    y = model(x).argmax(dim=1)
    goal, budget = Goal.untargeted(y), Budget(norm, {"linf": 0.05, "l2": 0.15}[norm])
    ours = cw_bounded(view_of(model), x, goal, budget, seeds(N), steps=40)
    theirs = bim(view_of(model), x, goal, budget, seeds(N), steps=40)
    assert (margin(model, goal, ours) >= margin(model, goal, theirs) - 1e-3).all()


def test_gradients_in_bfloat16_bring_no_false_success():
    model, x = conv(), images(N)
    goal, budget = Goal.untargeted(model(x).argmax(dim=1)), Budget("linf", 0.02)
    edge = cw_bounded(view_of(model), x, goal, budget, seeds(N), steps=30)
    view = view_of(model, exact=True, fast=True)
    made = cw_bounded(view, x, goal, budget, seeds(N), steps=30)
    assert (margin(model, goal, made) > 0).sum() >= (margin(model, goal, edge) > 0).sum() - 1


def test_numbers_without_a_meaning_are_errors():
    x, goal = images(N), Goal.untargeted(torch.zeros(N, dtype=torch.int64))
    for wrong in ({"steps": 0}, {"lr": -1.0}):
        with pytest.raises(UsageError):
            cw_bounded(view_of(conv()), x, goal, Budget("linf", 0.1), seeds(N), **wrong)
    with pytest.raises(NotApplicable):
        cw_bounded(view_of(conv()), x, goal, Budget("l2", float("inf")), seeds(N))

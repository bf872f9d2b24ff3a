"""HopSkipJump: distances known in closed form, by labels alone."""

from __future__ import annotations

import math

import pytest
import torch
from planted import Detector, Linear, conv, images, seeds
from rbg_attacks.hopskipjump import hopskipjump
from torch import nn

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

N = 20


def view_of(model, n=N, **options):
    return View.on(Bare(model), seeds(n), access="labels", exact=True, **options)


def two_classes():
    """Two linear classes whose boundary is near enough that the box is never in the way."""
    model, x = Linear(classes=2, seed=3), images(N) * 0.2 + 0.4
    w = model.weight.detach()
    model.bias.data[0] += (model(x)[:, 1] - model(x)[:, 0]).detach().median() + 0.3
    gap = (model(x)[:, 1] - model(x)[:, 0]).detach()
    return model, x, model(x).argmax(dim=1), gap.abs(), w[1] - w[0]


def run(norm, queries, targeted=False, eps=math.inf, **options):
    model, x, y, gap, w = two_classes()
    goal = Goal.targeted(1 - y) if targeted else Goal.untargeted(y)
    view, budget = view_of(model), Budget(norm, eps)
    made = hopskipjump(view, x, goal, budget, seeds(N), queries=queries, **options)
    least = gap / (w.norm() if norm == "l2" else w.abs().sum())
    return budget.size(made - x), least, goal.reached(Output.of(model(made))), view


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("targeted", [False, True])
def test_the_closed_form_distance_is_approached_and_never_undercut(norm, targeted):
    size, least, won, _ = run(norm, 2000, targeted)
    assert won.all()
    assert (size >= least * (1 - 1e-3) - 1e-6).all()
    assert (size <= least * (1.05 if norm == "l2" else 1.1) + 1e-5).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_more_queries_come_nearer(norm):
    sizes = [run(norm, queries)[0].median() for queries in (60, 300, 2000)]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_success_outside_a_finite_budget_is_none(norm):
    size, _, won, _ = run(norm, 1000, eps=float(run(norm, 1000)[1].median()))
    assert (size[won] > 0).all() and (size[~won] == 0).all()  # x comes back
    assert 0 < won.sum() < N


@pytest.mark.parametrize(("limit", "queries"), [(0, 333), (150, 333), (5, 100), (333, 1)])
def test_it_never_asks_more_than_its_queries_nor_than_the_limit(limit, queries):
    model, x, y, _, _ = two_classes()
    view = view_of(model, limit=limit)
    hopskipjump(view, x, Goal.untargeted(y), Budget("l2", math.inf), seeds(N), queries=queries)
    most = min(queries, limit or queries)
    assert (view.counts.forward <= most).all() and (view.counts.forward > 0).all()
    assert not view.counts.backward.any()


def test_repeated_estimates_are_paid_for_one_by_one():
    _, _, _, view = run("l2", 2000)
    assert (view.counts.forward > 1800).all()  # what is left would not pay for another estimate


def test_an_image_that_is_a_success_already_comes_back_after_one_query():
    model, x, y, _, _ = two_classes()
    view = view_of(model)
    made = hopskipjump(view, x, Goal.untargeted(1 - y), Budget("l2", math.inf), seeds(N))
    assert torch.equal(made, x) and view.counts.forward.tolist() == [1] * N


class Stubborn(nn.Module):
    """Gives class 1 to everything, whatever the image."""

    def forward(self, x):
        return torch.stack([x.flatten(1).sum(dim=1) * 0, x.flatten(1).sum(dim=1) * 0 + 1], dim=1)


def test_where_no_start_is_a_success_x_comes_back():
    x, view = images(N), view_of(Stubborn())
    goal = Goal.untargeted(torch.ones(N).long())
    made = hopskipjump(view, x, goal, Budget("l2", math.inf), seeds(N), starts=7)
    assert torch.equal(made, x) and view.counts.forward.tolist() == [8] * N


def test_a_rejected_input_is_never_a_success():
    # Everything bright is rejected, so the nearest misclassified image may be no success.
    model, x, y, _, _ = two_classes()
    defense = Detector(model, threshold=0.5)
    accepted = Defended(defense)(x, seeds(N)).accepted
    assert 0 < accepted.sum() < N
    goal = Goal.untargeted(y)
    view = View.on(Defended(defense), seeds(N), access="labels", exact=True, fixed=True)
    made = hopskipjump(view, x, goal, Budget("l2", math.inf), seeds(N), queries=1000)
    won = goal.reached(Defended(defense)(made, seeds(N)))
    same = (made == x).flatten(1).all(dim=1)
    assert (won | same).all() and won.double().mean() > 0.8


class Curved(nn.Module):
    """A small convolutional network that gives each of its classes to some images."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = conv(seed=4)
        self.usual = self.inner(images(100)).mean(dim=0).detach()

    def forward(self, x):
        return self.inner(x) - self.usual


def test_three_classes_on_a_curved_model():
    x, model = images(N), Curved()
    order = model(x).argsort(dim=1)
    for goal in (Goal.untargeted(order[:, -1]), Goal.targeted(order[:, 1])):
        few, many = (
            hopskipjump(view_of(model), x, goal, Budget("l2", math.inf), seeds(N), queries=q)
            for q in (200, 1500)
        )
        won = goal.reached(Output.of(model(many)))
        assert won.double().mean() > 0.8
        assert (many - x)[won].flatten(1).norm(dim=1).mean() < (few - x)[won].flatten(1).norm(dim=1).mean()


@pytest.mark.parametrize("bad", [{"queries": 0}, {"initial": 0}, {"starts": 0}, {"gamma": 0.0}])
def test_what_means_nothing_is_refused(bad):
    goal = Goal.untargeted(torch.zeros(N).long())
    with pytest.raises(UsageError, match="hopskipjump needs"):
        hopskipjump(view_of(conv()), images(N), goal, Budget("l2", math.inf), seeds(N), **bad)

"""Square attack: its schedule, its queries, and corners known in closed form."""

from __future__ import annotations

import pytest
import torch
from planted import Detector, Linear, Noise, conv, images, seeds
from rbg_attacks.square import bump, share_at, square

from robustbench_gan.base.errors import NotApplicable, UsageError
from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget, norm_of
from robustbench_gan.nouns.outcome import Goal, Output

N = 30


def view_of(model, n=N, **options):
    return View.on(Bare(model), seeds(n), access="scores", **options)


def two_classes(n=N):
    """A linear model of two classes, images off the edge of the box, their classes, and the weights' difference."""
    model, x = Linear(classes=2, seed=3), images(n) * 0.2 + 0.4
    w = model.weight.detach()
    gap = (model(x)[:, 1] - model(x)[:, 0]).detach()
    model.bias.data[0] += gap.median()  # so that both classes are given
    return model, x, model(x).argmax(dim=1), w[1] - w[0]


def margin(model, goal, made):
    return goal.margin(Output.of(model(made))).detach()


def test_the_best_corner_of_the_cube_is_found():
    model, x, y, w = two_classes()
    goal, eps = Goal.untargeted(y), 0.03
    made = square(view_of(model), x, goal, Budget("linf", eps), seeds(N), queries=400)
    risen = margin(model, goal, made) - margin(model, goal, x)
    assert torch.allclose(risen, (eps * w.abs().sum()).expand(N), rtol=1e-4)


@pytest.mark.parametrize("targeted", [False, True])
def test_it_wins_exactly_where_a_corner_of_the_cube_wins(targeted):
    model, x, y, w = two_classes()
    goal, eps = (Goal.targeted(1 - y) if targeted else Goal.untargeted(y)), 0.02
    view = view_of(model, exact=True)
    made = square(view, x, goal, Budget("linf", eps), seeds(N), queries=400)
    possible = margin(model, goal, x) + eps * w.abs().sum() > 0
    assert torch.equal(margin(model, goal, made) > 0, possible)
    assert 0 < possible.sum() < N
    assert (view.counts.forward[possible] < 400).all()
    assert set(view.counts.forward[~possible].tolist()) == {400}


def test_in_l2_it_comes_near_the_optimum_of_the_ball_and_never_above():
    model, x, y, w = two_classes()
    goal, eps = Goal.untargeted(y), 0.1
    made = square(view_of(model), x, goal, Budget("l2", eps), seeds(N), queries=1000)
    share = (margin(model, goal, made) - margin(model, goal, x)) / (eps * w.norm())
    assert share.max() <= 1 + 1e-4
    assert share.median() > 0.6


def test_the_share_halves_on_the_paper_s_schedule():
    # of 10,000 queries: after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000
    at = [share_at(0.8, n / 10000) for n in (0, 10, 11, 50, 51, 200, 501, 1001, 4001, 8001)]
    assert at == [0.8 / 2**k for k in (0, 0, 1, 1, 2, 2, 4, 5, 7, 9)]


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8])
def test_the_patch_has_unit_norm_and_two_halves_of_opposite_sign(side):
    patch = bump(side)
    assert patch.shape == (side, side) and patch.norm() == pytest.approx(1)
    assert (patch[: side // 2] > 0).all() and (patch[side // 2 :] < 0).all()


def test_each_sample_has_its_own_squares():
    x = torch.full((N, 1, 8, 8), 0.5)
    model, goal = Linear(shape=(1, 8, 8)), Goal.untargeted(torch.zeros(N).long())
    for norm in ("linf", "l2"):
        made = square(view_of(model), x, goal, Budget(norm, 0.1), seeds(N), queries=8)
        assert len({tuple(z.flatten().tolist()) for z in made}) == N


@pytest.mark.parametrize("shape", [(1, 3, 9), (3, 9, 3), (2, 1, 1)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_of_any_shape_and_proposals_that_are_never_for_nothing(shape, norm):
    x, goal, budget = images(4, shape), Goal.untargeted(torch.zeros(4).long()), Budget(norm, 0.2)
    made = square(view_of(Linear(shape=shape), 4), x, goal, budget, seeds(4), queries=60)
    assert budget.contains(made - x).all() and made.min() >= 0 and made.max() <= 1
    assert (norm_of(made - x, norm) > 0).all()


@pytest.mark.parametrize(("limit", "draws", "asked"), [(37, 1, 37), (500, 1, 60), (37, 2, 36)])
def test_it_never_asks_more_than_its_queries_nor_than_the_limit(limit, draws, asked):
    view = View.on(Defended(Noise(conv())), seeds(4), access="scores", limit=limit, draws=draws)
    square(view, images(4), Goal.untargeted(torch.zeros(4).long()), Budget("linf", 0.1), seeds(4), queries=60)
    assert view.counts.forward.tolist() == [asked] * 4
    before = view.counts.forward.clone()
    x = images(4)
    made = square(view, x, Goal.untargeted(torch.zeros(4).long()), Budget("linf", 0.1), seeds(4), queries=60)
    if asked != 60:  # nothing is left: x comes back
        assert torch.equal(made, x) and torch.equal(view.counts.forward, before)


def test_a_detector_is_evaded_too():
    # The brightness may not rise above a threshold, so half of the cube's corners are of no use.
    model, x, y, _ = two_classes()
    defense = Detector(model, threshold=0.5)
    out = Defended(defense)(x, seeds(N))
    kept = torch.nonzero(out.accepted)[:, 0]
    goal = Goal.untargeted(y[kept])
    view = View.on(Defended(defense), seeds(len(kept)), access="scores", exact=True)
    made = square(view, x[kept], goal, Budget("linf", 0.06), seeds(len(kept)), queries=400)
    assert goal.reached(Defended(defense)(made, seeds(len(kept)))).double().mean() > 0.5


@pytest.mark.parametrize("bad", [{"queries": 0}, {"share": 0.0}, {"share": 1.5}])
def test_what_means_nothing_is_refused(bad):
    goal = Goal.untargeted(torch.zeros(N).long())
    with pytest.raises(UsageError, match="square needs"):
        square(view_of(conv()), images(N), goal, Budget("linf", 0.1), seeds(N), **bad)
    with pytest.raises(NotApplicable, match="finite"):
        square(view_of(conv()), images(N), goal, Budget("l2", float("inf")), seeds(N))

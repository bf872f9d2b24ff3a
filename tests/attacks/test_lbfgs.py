"""L-BFGS: its objective and constant against scipy, the attack against known distances."""

from __future__ import annotations

import math

import pytest
import torch
from planted import Detector, Linear, conv, images, seeds
from rbg_attacks._batched_lbfgs import BatchedLbfgs
from rbg_attacks.lbfgs import _reweigh, _Search, _towards, lbfgs
from solved_lbfgs import N, by_scipy, solve
from torch import nn

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

ANY = Budget("l2", math.inf)


def run(model, x, goal, budget=ANY, system=None, fast=False, **parameters):
    view = View.on(system or Bare(model), seeds(len(x)), exact=True, whole_batches=True, fast=fast)
    return lbfgs(view, x, goal, budget, seeds(len(x)), **parameters), view


def sizes(made, x):
    return (made - x).double().flatten(1).norm(dim=1)


# ---- the objective and its constant


@pytest.mark.parametrize("kind", ["targeted", "untargeted"])
@pytest.mark.parametrize("const", [0.01, 1.0, 20.0])
def test_the_attack_s_objective_has_scipy_s_minimum(kind, const):
    model, x = conv().double(), images(4).double()
    goal = Goal(kind, model(x).argmin(dim=1) if kind == "targeted" else model(x).argmax(dim=1))

    def objective(v, rows):
        loss = _towards(goal.rows(rows))(Output.of(model(v.view(-1, 1, 4, 4))))
        return (v - x[rows].flatten(1)).square().sum(dim=1) - const * loss

    _, value, _ = solve(objective, x.flatten(1), tolerance=1e-6, history=5)
    for row in range(4):
        least = by_scipy(objective, x.flatten(1), row)[1]
        assert float(value[row]) <= least + 1e-4 * max(1, abs(least))


def test_the_loss_is_the_cross_entropy_towards_the_goal():
    logits = 3 * torch.randn(N, 5, generator=torch.Generator().manual_seed(1))
    out, y = Output(logits, torch.tensor([[0.5], [-1.0]]).repeat(N // 2, 1)), torch.arange(N) % 5
    charge = torch.tensor([0.55, 0.0]).repeat(
        N // 2
    )  # the score and half of what it is charged for in advance
    p = logits.softmax(dim=1).gather(1, y[:, None])[:, 0]
    assert torch.allclose(_towards(Goal.targeted(y))(out), p.log() - charge, atol=1e-5)
    assert torch.allclose(_towards(Goal.untargeted(y))(out), (1 - p).log() - charge, atol=1e-4)


def test_the_constant_grows_tenfold_until_a_success_and_is_then_bisected():
    search, row = _Search(torch.zeros(2), 1e-3), torch.tensor([0])
    seen = [float(search.now[0])]
    for success in (False, False, False, True, False, True):
        ratio = search.next(row, torch.tensor([success]))
        assert float(ratio) == pytest.approx(float(search.now[0]) / seen[-1], rel=1e-5)
        seen.append(float(search.now[0]))
    assert seen == pytest.approx([1e-3, 1e-2, 1e-1, 1, 0.55, 0.775, 0.6625], rel=1e-5)
    assert search.now[1] == torch.tensor(1e-3) and search.tried.tolist() == [6, 0]


def test_under_a_new_constant_value_and_gradient_follow_from_the_old():
    model, x, rows = conv(), images(N).flatten(1), torch.arange(N)
    at = images(N, seed=3).flatten(1)
    goal, ratio = Goal.targeted(torch.arange(N) % 3), torch.linspace(0.5, 10, N)

    def objective(const):
        leaf = at.clone().requires_grad_()
        value = (leaf - x).square().sum(dim=1) - const * _towards(goal)(
            Output.of(model(leaf.view(-1, 1, 4, 4)))
        )
        return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]

    solver = BatchedLbfgs(at, steps=5, history=2, tolerance=1e-4, first=0.5)
    solver.begin(rows, *objective(torch.full((N,), 0.3)))
    _reweigh(solver, rows, x, ratio)
    value, grad = objective(0.3 * ratio)
    assert torch.allclose(solver.value, value, atol=1e-5)
    assert torch.allclose(solver.grad, grad, atol=1e-5)


# ---- the attack


def two_classes(count, spread, seed):
    """A linear model of two classes, images around grey and how far each is from the boundary, box and all."""
    model = Linear(2, seed=seed)
    x = (images(count, seed=seed) - 0.5) * spread + 0.5
    with torch.no_grad():
        normal = model.weight[1] - model.weight[0]
        model.bias.copy_(torch.stack([(x.flatten(1) @ normal).max() + 0.3, torch.tensor(0.0)]))
        gap = (model(x)[:, 0] - model(x)[:, 1]).double()
    flat, normal = x.flatten(1).double(), normal.double()
    low, high = torch.zeros(count, 1, dtype=torch.float64), torch.full((count, 1), 1e3, dtype=torch.float64)
    for _ in range(80):  # the nearest point is x + s * normal, clipped, for the least s that crosses
        middle = (low + high) / 2
        crossed = (((flat + middle * normal).clamp(0, 1) - flat) @ normal >= gap)[:, None]
        low, high = torch.where(crossed, low, middle), torch.where(crossed, middle, high)
    assert crossed.any() and (((flat + high * normal).clamp(0, 1) - flat) @ normal >= gap - 1e-9).all()
    return model, x, ((flat + high * normal).clamp(0, 1) - flat).norm(dim=1)


@pytest.mark.parametrize(("spread", "seed"), [(0.2, 1), (0.2, 4), (1.0, 2), (1.0, 4)])
def test_on_a_linear_model_the_size_is_near_the_optimum_and_never_below(spread, seed):
    model, x, optimum = two_classes(20, spread, seed)
    for search_steps, factor in ((5, 1.3), (10, 1.1)):
        made, _ = run(
            model, x, Goal.untargeted(torch.zeros(20, dtype=torch.int64)), search_steps=search_steps
        )
        assert (model(made).argmax(dim=1) == 1).all()
        ratio = sizes(made, x) / optimum
        assert ratio.min() > 1 - 1e-5
        assert ratio.max() < factor, ratio


def test_more_searches_never_end_farther_away():
    x, model = images(N), conv()
    goal = Goal.untargeted(model(x).argmax(dim=1))
    found = [sizes(run(model, x, goal, search_steps=k)[0], x) for k in (5, 7, 9)]
    reached = found[0] > 0
    assert reached.any()
    assert (found[1] <= found[0])[reached].all() and (found[2] <= found[1])[reached].all()


def test_a_target_is_reached_and_an_unsure_or_a_sure_model_left():
    x = images(N, (1, 6, 6)) * 0.5
    for scale in (0.1, 1.0, 100.0):
        model = conv(3, (1, 6, 6))
        with torch.no_grad():
            model[-1].bias.sub_(model(x).mean(dim=0))
            for parameter in model[-1].parameters():
                parameter.mul_(scale)
        top = model(x).topk(2, dim=1).indices
        made, _ = run(model, x, Goal.targeted(top[:, 1]), search_steps=9)
        assert torch.equal(model(made).argmax(dim=1), top[:, 1])
        made, _ = run(model, x, Goal.untargeted(top[:, 0]), search_steps=9)
        assert (model(made).argmax(dim=1) != top[:, 0]).all()


def test_what_is_already_wrong_costs_one_look_and_is_given_back():
    x, model = images(N), conv()
    y = model(x).argmax(dim=1)
    y[:3] = (y[:3] + 1) % 3
    made, view = run(model, x, Goal.untargeted(y))
    assert torch.equal(made[:3], x[:3])
    assert view.counts.forward[:3].tolist() == [1, 1, 1] and (view.counts.forward[3:] > 1).all()


def test_where_nothing_wins_the_image_itself_comes_back():
    class Constant(nn.Module):
        def forward(self, v):
            return v.flatten(1)[:, :1] * 0 + torch.tensor([[1.0, 0.0, 0.0]])

    x = images(N)
    made, view = run(Constant(), x, Goal.untargeted(torch.zeros(N, dtype=torch.int64)))
    assert torch.equal(made, x)
    assert (view.counts.forward <= 6).all()  # a flat search ends at once


def test_a_finite_eps_is_kept():
    x, model = images(N), conv()
    goal = Goal.untargeted(model(x).argmax(dim=1))
    whole, _ = run(model, x, goal)
    eps = float(sizes(whole, x).median())
    made, _ = run(model, x, goal, budget=Budget("l2", eps))
    inside = Budget("l2", eps).contains(whole - x)
    assert inside.any() and not inside.all()
    assert torch.equal(made, torch.where(inside[:, None, None, None], whole, x))


def test_a_detector_is_passed_as_well():
    x = images(N) * 0.3 + 0.3
    defense = Detector(conv(), threshold=0.45).eval()
    out = defense(x, seeds(N))
    assert out.accepted.any() and not out.accepted.all()
    goal = Goal.untargeted(out.logits.argmax(dim=1))
    made, _ = run(None, x, goal, system=Defended(defense), search_steps=9)
    reached = goal.reached(defense(made, seeds(N)))
    assert reached.double().mean() >= 0.75
    assert (goal.reached(defense(x, seeds(N))) == 0).all()


@pytest.mark.usefixtures("bfloat16")
def test_a_success_in_bfloat16_alone_is_not_believed():
    class Boasting(nn.Module):
        def forward(self, v):
            logits = model(v)
            return logits + lie if torch.is_autocast_enabled("cpu") and v.requires_grad else logits

    x, model, y = images(N), conv(2), torch.zeros(N, dtype=torch.int64)
    with torch.no_grad():
        model[-1].weight.mul_(5)
        gap = model(x)[:, 0] - model(x)[:, 1]
        model[-1].bias[0] += 0.3 - gap.min()
    lie = torch.tensor([0.0, 0.2])  # a boundary nearer than the true one
    goal = Goal.untargeted(y)
    made, _ = run(model, x, goal)
    cheated, _ = run(Boasting(), x, goal, fast=True)
    moved = sizes(cheated, x) > 0
    assert goal.reached(Output.of(model(made))).all() and moved.any()
    assert goal.reached(Output.of(model(cheated)))[moved].all()


WRONG = [{"steps": 0}, {"search_steps": 0}, {"history": 0}, {"initial_const": 0.0}, {"tolerance": -1.0}]


@pytest.mark.parametrize("wrong", WRONG)
def test_parameters_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UsageError, match="={}".format(*wrong.values())):
        run(conv(), images(N), Goal.untargeted(torch.zeros(N, dtype=torch.int64)), **wrong)

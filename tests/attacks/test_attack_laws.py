"""Laws that every registered attack obeys: budget, box, seed, rows, and doing nothing where nothing is allowed."""

from __future__ import annotations

import math

import pytest
import torch
from crafted import attack_of, crafted
from planted import Linear, Noise, conv, images, seeds

from robustbench_gan.base.errors import NotApplicable
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import NORMS, Budget
from robustbench_gan.nouns.outcome import Goal, Output

ATTACKS = registry.names("attacks")
RADIUS = {"l0": 5.0, "l1": 1.5, "l2": 0.7, "linf": 0.2}
N = 6


def run(name, budget, *, x=None, goal=None, **more):
    x = images(N) if x is None else x
    goal = Goal.untargeted(torch.arange(len(x)) % 3) if goal is None else goal
    return crafted(name, budget, x, goal, **more)


COMBINATIONS = [
    pytest.param(name, norm, id=f"{name}-{norm}")
    for name in ATTACKS
    for norm in info_of(registry.load("attacks", name)).norms
]


@pytest.mark.parametrize(("name", "norm"), COMBINATIONS)
def test_inside_the_ball_and_the_box_for_any_system(name, norm):
    for model in (Bare(conv(seed=1)), Bare(Linear(seed=2)), Defended(Noise(conv(seed=3)))):
        for exact in (False, True):
            run(name, Budget(norm, RADIUS[norm]), model=model, exact=exact)


@pytest.mark.parametrize(("name", "norm"), COMBINATIONS)
def test_at_the_edge_of_the_box_too(name, norm):
    x = images(N).round()  # every pixel is 0 or 1
    run(name, Budget(norm, RADIUS[norm]), x=x)


@pytest.mark.parametrize(("name", "norm"), COMBINATIONS)
def test_a_ball_of_radius_zero_gives_the_image_back_exactly(name, norm):
    if not attack_of(name)[1].minimal:
        assert torch.equal(run(name, Budget(norm, 0.0))[0], images(N))


@pytest.mark.parametrize(("name", "norm"), COMBINATIONS)
def test_the_same_seed_gives_the_same_examples_whatever_torch_was_doing(name, norm):
    first, _ = run(name, Budget(norm, RADIUS[norm]))
    torch.manual_seed(99)
    torch.rand(7)
    state = torch.get_rng_state()
    assert torch.equal(run(name, Budget(norm, RADIUS[norm]))[0], first)
    assert torch.equal(torch.get_rng_state(), state)  # and torch's own generator is not drawn from


@pytest.mark.parametrize(("name", "norm"), COMBINATIONS)
def test_a_sample_does_not_depend_on_its_neighbours(name, norm):
    budget, x, goal = Budget(norm, RADIUS[norm]), images(N), Goal.untargeted(torch.arange(N) % 3)
    together, _ = run(name, budget, goal=goal)
    for i in (0, N - 1):
        row = torch.tensor([i])
        alone, _ = run(
            name, budget, x=x[row], goal=goal.rows(row), seed=seeds(N, cell=1)[row], view_seed=seeds(N)[row]
        )
        assert torch.allclose(alone[0], together[i], atol=1e-6)


@pytest.mark.parametrize(("name", "norm"), COMBINATIONS)
def test_attacks_do_what_they_say_they_need(name, norm):
    _, info, parameters = attack_of(name)
    _, view = run(name, Budget(norm, RADIUS[norm]), access=info.needs)
    if info.needs == "gradient" and not info.trained:
        assert (view.counts.backward > 0).all()
    if info.needs == "nothing":
        assert not view.counts.calls.any()
    most = sum(info.cost(parameters, norm, 3, 16))  # the estimate of a cell's cost stands on it
    assert (view.counts.forward <= most).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_targeted_goal_is_pursued(name):
    _, info, _ = attack_of(name)
    if info.needs != "gradient" or not info.targeted or "linf" not in info.norms:
        return
    x, model = images(N), Linear(seed=4)
    target = (model(x).argmin(dim=1)).detach()
    goal = Goal.targeted(target)
    made, _ = run(name, Budget("linf", 0.3), model=Bare(model), goal=goal, fit_steps=40)
    assert (goal.loss(Output.of(model(made))) > goal.loss(Output.of(model(x)))).all()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_unbounded_budget_is_answered_or_declined(name):
    _, info, _ = attack_of(name)
    if (
        info.needs == "gradient"
        and not info.minimal
        and "linf" in info.norms
        and "steps" in attack_of(name)[2]
    ):
        with pytest.raises(NotApplicable):
            run(name, Budget("linf", math.inf))


def test_every_norm_is_attacked_by_something():
    assert {norm for name in ATTACKS for norm in info_of(registry.load("attacks", name)).norms} == set(NORMS)

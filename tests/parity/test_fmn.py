"""FMN against foolbox's and adv_lib's on trained networks: as often, and no further away."""

from __future__ import annotations

import math

import pytest
import torch
from second import adv_lib_attacks, foolbox_attacks, foolbox_criterion, foolbox_model

from robustbench_gan.api.run_attack import run_attack
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

pytestmark = pytest.mark.parity
N, STEPS = 60, 100
N_L0 = 120  # whole numbers of a few values: on 60 images the processor that trained the network decided
FOOLBOX = {"l0": "L0FMNAttack", "l1": "L1FMNAttack", "l2": "L2FMNAttack", "linf": "LInfFMNAttack"}
ORDER = {"l0": 0, "l1": 1, "l2": 2, "linf": math.inf}


def foolboxs(model, x, goal, norm):
    criterion = foolbox_criterion(goal.classes, targeted=goal.kind == "targeted")
    attack = getattr(foolbox_attacks(), FOOLBOX[norm])(steps=STEPS)
    return attack(foolbox_model(model), x, criterion, epsilons=None)[0]


def adv_libs(model, x, goal, norm):
    targeted = goal.kind == "targeted"
    return adv_lib_attacks().fmn(model, x, goal.classes, norm=ORDER[norm], targeted=targeted, steps=STEPS)


def sizes(model, x, goal, made, norm):
    """The size of each success, by the float32 model, infinite for a failure."""
    with torch.no_grad():
        won = goal.reached(Output.of(model(made)))
    return torch.where(won, Budget(norm, math.inf).size(made - x), math.inf)


def assert_as_strong(ours, theirs, norm):
    won, other = ours.isfinite(), theirs.isfinite()
    assert other.any()  # they were run as they should be
    assert won.double().mean() >= other.double().mean() - 0.02
    both = won & other
    if norm == "l0":  # whole numbers: a median of 8 for 7 says nothing, their mean does
        assert ours[both].mean() <= theirs[both].mean() * 1.03
    else:
        assert ours[both].median() <= theirs[both].median() * 1.03


@pytest.mark.parametrize("norm", list(FOOLBOX))
@pytest.mark.parametrize("theirs", [foolboxs, adv_libs])
@pytest.mark.parametrize("network", ["mnist_cnn", "colour_cnn"])
def test_as_strong_as_the_other_library(request, network, theirs, norm):
    trained = request.getfixturevalue(network)
    x, y = trained.take(N_L0 if norm == "l0" else N)
    goal = Goal.untargeted(y)
    other = sizes(trained.model, x, goal, theirs(trained.model, x, goal, norm), norm)
    made = run_attack(f"fmn:steps={STEPS}", trained.model, x, y, norm=norm).examples[0]
    ours = sizes(trained.model, x, goal, made, norm)
    assert ours.isfinite().double().mean() >= 0.98
    assert_as_strong(ours, other, norm)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_as_strong_towards_a_target(mnist_cnn, norm):
    x, y = mnist_cnn.take(N)
    goal = Goal.targeted((y + 1) % 10)
    made = run_attack(f"fmn:steps={STEPS}", mnist_cnn.model, x, y, norm=norm, targets=goal.classes).examples[
        0
    ]
    ours = sizes(mnist_cnn.model, x, goal, made, norm)
    assert ours.isfinite().double().mean() >= 0.9
    assert_as_strong(
        ours, sizes(mnist_cnn.model, x, goal, foolboxs(mnist_cnn.model, x, goal, norm), norm), norm
    )

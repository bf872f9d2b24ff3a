"""DeepFool against foolbox's and adv_lib's on trained networks: as often, and no further away."""

from __future__ import annotations

import math

import pytest
import torch
from second import adv_lib_attacks, foolbox_attacks, foolbox_criterion, foolbox_model

from robustbench_gan.api.run_attack import run_attack
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

pytestmark = pytest.mark.parity
N, STEPS = 100, 50


def judged(model, x, y, made, norm):
    """The success rate and the median size of the successes, by the float32 model."""
    with torch.no_grad():
        won = Goal.untargeted(y).reached(Output.of(model(made)))
    return won.double().mean(), Budget(norm, math.inf).size(made - x)[won].median()


def foolboxs(model, x, y, norm):
    kind = foolbox_attacks().L2DeepFoolAttack if norm == "l2" else foolbox_attacks().LinfDeepFoolAttack
    return kind(steps=STEPS)(foolbox_model(model), x, foolbox_criterion(y), epsilons=None)[0]


def adv_libs(model, x, y, norm):
    return adv_lib_attacks().df(model, x, y, steps=STEPS, norm=2 if norm == "l2" else math.inf)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("theirs", [foolboxs, adv_libs])
@pytest.mark.parametrize("network", ["mnist_cnn", "colour_cnn"])
def test_as_strong_as_the_other_library(request, network, theirs, norm):
    trained = request.getfixturevalue(network)
    x, y = trained.take(N)
    other, other_size = judged(trained.model, x, y, theirs(trained.model, x, y, norm), norm)
    made = run_attack(f"deepfool:steps={STEPS}", trained.model, x, y, norm=norm).examples[0]
    ours, size = judged(trained.model, x, y, made, norm)
    assert other > 0.9  # they were run as they should be
    assert ours >= other - 0.02
    assert size <= other_size * 1.03

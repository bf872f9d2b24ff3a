"""Carlini and Wagner in linf against adv_lib's on trained networks."""

from __future__ import annotations

import pytest
import torch
from planted import seeds
from rbg_attacks._cw_linf import cw_linf
from second import adv_lib_attacks

from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import norm_of
from robustbench_gan.nouns.outcome import Goal, Output

pytestmark = pytest.mark.parity
N = 12
THEIR_STEPS = 100  # a try; their search makes tens of tries, so this is thousands of passes


def sizes(model, x, goal, made):
    """The norm of each success as the float32 model judges it, infinite for the others."""
    with torch.no_grad():
        won = goal.reached(Output.of(model(made)))
    return torch.where(won, norm_of(made - x, "linf"), torch.inf)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mnist_cnn", "colour_cnn"])
@pytest.mark.parametrize("kind", ["untargeted", "targeted"])
def test_as_often_and_as_near_as_adv_lib_s(network, kind, request):
    trained = request.getfixturevalue(network)
    x, y = trained.take(N)
    goal = Goal.untargeted(y) if kind == "untargeted" else Goal.targeted((y + 1) % 10)
    view = View.on(Bare(trained.model), seeds(N), whole_batches=True, exact=True)
    ours = sizes(trained.model, x, goal, cw_linf(view, x, goal))
    made = adv_lib_attacks().carlini_wagner_linf(
        trained.model, x, goal.classes, targeted=kind == "targeted", max_iterations=THEIR_STEPS
    )
    theirs = sizes(trained.model, x, goal, made)
    assert theirs.isfinite().double().mean() > 0.5
    assert ours.isfinite().sum() >= theirs.isfinite().sum()
    assert ours.median() <= theirs.median() * 1.001
    assert (ours <= theirs * 1.05).double().mean() >= 0.8  # and sample by sample, not in the middle alone

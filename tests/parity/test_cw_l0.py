"""Carlini and Wagner in l0 against ART's CarliniL0Method, and foolbox's FMN, on trained networks."""

from __future__ import annotations

import pytest
import torch
from planted import seeds
from rbg_attacks._cw_l0 import cw_l0
from second import (
    art_classifier,
    art_evasion,
    art_generate,
    foolbox_attacks,
    foolbox_criterion,
    foolbox_model,
)

from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import norm_of
from robustbench_gan.nouns.outcome import Goal, Output

pytestmark = pytest.mark.parity
N = 60
FOR_ART = 20  # it takes seconds an image


@pytest.fixture(params=["mnist_cnn", "colour_cnn"])
def setting(request):
    """Model, images, labels, a judge of examples, and what our attack is judged."""
    trained = request.getfixturevalue(request.param)
    x, y = trained.take(N)
    goal = Goal.untargeted(y)

    def sizes(made):
        """The changed values of each success as the float32 model judges it, infinite for the others."""
        rows = torch.arange(len(made))
        with torch.no_grad():
            won = goal.rows(rows).reached(Output.of(trained.model(made)))
        return torch.where(won, norm_of(made - x[rows], "l0"), torch.inf)

    view = View.on(Bare(trained.model), seeds(N), whole_batches=True, exact=True)
    return trained.model, x, y, sizes, sizes(cw_l0(view, x, goal))


@pytest.mark.slow
def test_far_fewer_values_than_art_s(setting):
    model, x, y, sizes, ours = setting
    x, y, ours = x[:FOR_ART], y[:FOR_ART], ours[:FOR_ART]
    attack = art_evasion().CarliniL0Method(
        art_classifier(model, x.shape[1:], 10), batch_size=FOR_ART, verbose=False
    )
    made = art_generate(attack, x, y).clamp(0, 1)
    made = torch.where((made - x).abs() > 1e-6, made, x)  # the rounding of tanh, by ART's own measure
    theirs = sizes(made)
    assert theirs.isfinite().double().mean() > 0.5
    assert ours.isfinite().sum() >= theirs.isfinite().sum()
    assert (ours <= theirs).all()
    assert ours.median() * 5 <= theirs.median()


@pytest.mark.slow
def test_no_more_values_than_fmn_s(setting):
    """0.97 (colour) and 0.89 (MNIST) times as many on 60 images; blocks of 20 spread from 0.86 to 1.06."""
    model, x, y, sizes, ours = setting
    attack = foolbox_attacks().L0FMNAttack(steps=300)
    theirs = sizes(attack(foolbox_model(model), x, foolbox_criterion(y), epsilons=None)[0])
    assert ours.isfinite().all()
    both = theirs.isfinite()
    assert both.double().mean() > 0.9
    assert ours[both].mean() <= theirs[both].mean() * 1.03

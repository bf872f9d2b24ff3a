"""HopSkipJump against ART's and foolbox's, at an equal number of queries on trained networks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from planted import seeds
from rbg_attacks.hopskipjump import hopskipjump
from second import (
    art_classifier,
    art_evasion,
    art_generate,
    foolbox_attacks,
    foolbox_criterion,
    foolbox_model,
)
from torch import nn

from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

pytestmark = pytest.mark.parity
NETWORKS = [(network, norm) for network in ("mnist_cnn", "colour_cnn") for norm in ("l2", "linf")]


class Asked(nn.Module):
    """Counts the images that it answers; takes ART's float64 for what it means."""

    def __init__(self, model):
        super().__init__()
        self.model, self.count = model, 0

    def forward(self, x):
        self.count += len(x)
        return self.model(x.float())


def art_s(asked, x, y, norm):
    classifier = art_classifier(asked, x.shape[1:], 10)
    np.random.seed(0)
    attack = art_evasion().HopSkipJump(
        classifier, norm=2 if norm == "l2" else np.inf, max_iter=5, init_eval=100, verbose=False
    )
    return art_generate(attack, x, y)


def foolbox_s(asked, x, y, norm):
    torch.manual_seed(0)
    attack = foolbox_attacks().HopSkipJumpAttack(steps=5, constraint=norm)
    return attack.run(foolbox_model(asked), x, foolbox_criterion(y))


@pytest.mark.parametrize(("network", "norm"), NETWORKS)
@pytest.mark.parametrize(("library", "n"), [(art_s, 12), (foolbox_s, 60)])
def test_it_comes_as_near_with_as_many_queries(request, network, norm, library, n):
    trained = request.getfixturevalue(network)
    x, y = trained.take(n)
    goal, budget = Goal.untargeted(y), Budget(norm, math.inf)
    asked = Asked(trained.model).eval()
    theirs = library(asked, x, y, norm)
    view = View.on(Bare(trained.model), seeds(n), access="labels", exact=True, whole_batches=True)
    ours = hopskipjump(view, x, goal, budget, seeds(n, cell=1), queries=asked.count // n)
    won = [goal.reached(Output.of(trained.model(z))) for z in (ours, theirs)]
    assert won[0].double().mean() >= won[1].double().mean() - 0.02
    size = [budget.size(z - x)[ok].median() for z, ok in zip((ours, theirs), won, strict=True)]
    assert size[0] <= size[1] * 1.03

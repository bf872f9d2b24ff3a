"""C&W in l2 against foolbox's and adv_lib's on trained networks: the same search where the numbers are the same."""

from __future__ import annotations

import pytest
import torch
from planted import seeds
from rbg_attacks.cw import cw
from second import adv_lib_attacks, foolbox_attacks, foolbox_criterion, foolbox_model

from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

pytestmark = pytest.mark.parity
N = 30
L2 = Budget("l2", float("inf"))
# Few steps, so longer ones than the authors' 0.01, and a first c that need not grow through the whole search.
NUMBERS = {"steps": 40, "lr": 0.1, "search_steps": 5, "initial_const": 0.1}
NETWORKS = pytest.mark.parametrize("network", ["mnist_cnn", "colour_cnn"])


def foolbox_s(model, x, classes, targeted, kappa=0.0):
    attack = foolbox_attacks().L2CarliniWagnerAttack(
        binary_search_steps=NUMBERS["search_steps"], steps=NUMBERS["steps"], stepsize=NUMBERS["lr"],
        initial_const=NUMBERS["initial_const"], confidence=kappa,
    )  # fmt: skip
    return attack.run(foolbox_model(model), x, foolbox_criterion(classes, targeted=targeted))


def adv_lib_s(model, x, classes, targeted, kappa=0.0):
    return adv_lib_attacks().carlini_wagner_l2(
        model, x, classes, targeted, confidence=kappa, learning_rate=NUMBERS["lr"],
        initial_const=NUMBERS["initial_const"], binary_search_steps=NUMBERS["search_steps"],
        max_iterations=NUMBERS["steps"],
    )  # fmt: skip


def judged(model, goal, x, made, kappa=0.0):
    """The share won, and the median size of those. Foolbox marks a failure by a black image: that is no win."""
    with torch.no_grad():
        won = goal.margin(Output.of(model(made))) > kappa - 1e-4
    won &= made.flatten(1).any(dim=1)
    return float(won.double().mean()), float(L2.size(made - x)[won].median())


def craft(trained_on, goal, x, *, fast=False, **parameters):
    view = View.on(Bare(trained_on), seeds(len(x)), exact=True, whole_batches=True, fast=fast)
    return cw(view, x, goal, L2, seeds(len(x), cell=1), **parameters)


@NETWORKS
@pytest.mark.parametrize("library", [foolbox_s, adv_lib_s])
@pytest.mark.parametrize("targeted", [False, True])
def test_as_many_fall_at_the_same_size(request, network, library, targeted):
    trained = request.getfixturevalue(network)
    x, y = trained.take(N)
    goal = Goal.targeted((y + 1) % 10) if targeted else Goal.untargeted(y)
    their_share, their_size = judged(
        trained.model, goal, x, library(trained.model, x, goal.classes, targeted).detach()
    )
    assert their_share > 0.9
    for parameters in (NUMBERS, {"preset": "fast"}):
        share, size = judged(trained.model, goal, x, craft(trained.model, goal, x, **parameters))
        assert share >= their_share - 0.02
        assert size <= their_size * 1.03


@NETWORKS
def test_gradients_in_bfloat16_cost_no_quality(request, network):
    trained = request.getfixturevalue(network)
    x, y = trained.take(N)
    goal = Goal.untargeted(y)
    for parameters in (NUMBERS, {"preset": "fast"}):
        share, size = judged(trained.model, goal, x, craft(trained.model, goal, x, **parameters))
        quick_share, quick_size = judged(
            trained.model, goal, x, craft(trained.model, goal, x, fast=True, **parameters)
        )
        assert quick_share >= share - 0.02 and quick_size <= size * 1.03


@pytest.mark.parametrize("kappa", [2.0])
def test_with_a_lead_to_keep(mnist_cnn, kappa):
    x, y = mnist_cnn.take(N)
    goal = Goal.untargeted(y)
    theirs = adv_lib_s(mnist_cnn.model, x, y, False, kappa).detach()
    their_share, their_size = judged(mnist_cnn.model, goal, x, theirs, kappa)
    for parameters in (NUMBERS, {"preset": "fast"}):
        made = craft(mnist_cnn.model, goal, x, kappa=kappa, **parameters)
        share, size = judged(mnist_cnn.model, goal, x, made, kappa)
        assert share >= their_share - 0.02 and size <= their_size * 1.03


@NETWORKS
def test_few_searches_leave_the_same_examples_as_adv_lib_s(request, network):
    trained = request.getfixturevalue(network)
    x, y = trained.take(30)
    one = {"steps": 30, "lr": 0.1, "search_steps": 1, "initial_const": 10.0}
    theirs = adv_lib_attacks().carlini_wagner_l2(
        trained.model, x, y, learning_rate=0.1, initial_const=10.0, binary_search_steps=1, max_iterations=30,
        abort_early=False,
    )  # fmt: skip
    made = craft(trained.model, Goal.untargeted(y), x, abort_early=False, **one)
    size = (theirs - x).flatten(1).norm(dim=1)
    apart = (made - theirs.detach()).flatten(1).norm(dim=1)[size > 0] / size[size > 0]
    assert (
        size > 0
    ).double().mean() > 0.9 and apart.median() < 0.01  # the same path, but for rounding at kinks of ReLU

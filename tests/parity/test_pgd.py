"""PGD with a random start against foolbox's, on trained networks at budgets that divide the images."""

from __future__ import annotations

import pytest
import torch
from planted import seeds
from rbg_attacks.pgd import pgd
from second import foolbox_attacks, foolbox_criterion, foolbox_model

from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

pytestmark = pytest.mark.parity
N, STEPS = 150, 40
BUDGETS = [
    ("mnist_cnn", "linf", 0.06), ("mnist_cnn", "linf", 0.1), ("mnist_cnn", "l2", 0.9), ("mnist_cnn", "l2", 1.3),
    ("colour_cnn", "linf", 0.01), ("colour_cnn", "linf", 0.02), ("colour_cnn", "l2", 0.2), ("colour_cnn", "l2", 0.5),
]  # fmt: skip


@pytest.mark.parametrize(("network", "norm", "eps"), BUDGETS)
def test_as_many_fall_as_to_foolbox_s(request, network, norm, eps):
    trained = request.getfixturevalue(network)
    x, y = trained.take(N)
    goal, budget, size = Goal.untargeted(y), Budget(norm, eps), 0.1 * eps
    kind = foolbox_attacks().LinfPGD if norm == "linf" else foolbox_attacks().L2PGD
    torch.manual_seed(0)
    attack = kind(abs_stepsize=size, rel_stepsize=None, steps=STEPS, random_start=True)
    theirs, _, _ = attack(foolbox_model(trained.model), x, foolbox_criterion(y), epsilons=eps)
    view = View.on(Bare(trained.model), seeds(N), exact=True, whole_batches=True)
    ours = pgd(view, x, goal, budget, seeds(N, cell=1), steps=STEPS, step=size)
    assert budget.contains(ours - x).all()
    share = [float(goal.reached(Output.of(trained.model(z))).double().mean()) for z in (ours, theirs)]
    assert 0.03 < share[1] < 0.97
    assert share[0] >= share[1] - 0.02

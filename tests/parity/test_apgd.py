"""Auto-PGD against adv_lib's, which is its authors' code, on trained networks at budgets that divide the images."""

from __future__ import annotations

import pytest
import torch
from planted import seeds
from rbg_attacks.apgd import apgd
from second import adv_lib_attacks

from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

pytestmark = pytest.mark.parity
N, STEPS = 150, 30
BUDGETS = [
    ("mnist_cnn", "linf", 0.08), ("mnist_cnn", "linf", 0.1), ("mnist_cnn", "l2", 1.0), ("mnist_cnn", "l2", 1.3),
    ("colour_cnn", "linf", 0.01), ("colour_cnn", "linf", 0.02), ("colour_cnn", "l2", 0.2), ("colour_cnn", "l2", 0.5),
]  # fmt: skip


def both(request, network, norm, eps, loss, *, targeted=False):
    """The shares won by ours and by theirs."""
    library = adv_lib_attacks()
    trained = request.getfixturevalue(network)
    x, y = trained.take(N)
    budget, order = Budget(norm, eps), float("inf") if norm == "linf" else 2.0
    goal = Goal.targeted((y + 1) % 10) if targeted else Goal.untargeted(y)
    torch.manual_seed(0)
    if loss == "dlr-targeted":
        theirs = library.apgd_targeted(trained.model, x, y, eps, order, n_iter=STEPS, num_targets=3)
    else:
        theirs = library.apgd(
            trained.model, x, goal.classes, eps, order, targeted, n_iter=STEPS, loss_function=loss
        )
    view = View.on(Bare(trained.model), seeds(N), exact=True, whole_batches=True)
    ours = apgd(view, x, goal, budget, seeds(N, cell=1), steps=STEPS, loss=loss, classes=3)
    assert budget.contains(ours - x).all()
    return [float(goal.reached(Output.of(trained.model(z))).double().mean()) for z in (ours, theirs)]


@pytest.mark.parametrize(("network", "norm", "eps"), BUDGETS)
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_as_many_fall_as_to_adv_lib_s(request, network, norm, eps, loss):
    ours, theirs = both(request, network, norm, eps, loss)
    assert 0.05 < theirs < 0.95
    assert ours >= theirs - 0.02


@pytest.mark.parametrize(("network", "norm", "eps"), BUDGETS[1::2])
def test_as_many_fall_when_every_class_is_aimed_at(request, network, norm, eps):
    ours, theirs = both(request, network, norm, eps, "dlr-targeted")
    assert theirs > 0.05
    assert ours >= theirs - 0.02


@pytest.mark.parametrize(("network", "norm", "eps"), BUDGETS[1::2])
def test_as_many_reach_a_target(request, network, norm, eps):
    ours, theirs = both(request, network, norm, 2 * eps, "ce", targeted=True)
    assert theirs > 0.03
    assert ours >= theirs - 0.02

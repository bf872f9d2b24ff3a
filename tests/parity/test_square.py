"""Square attack against torchattacks', at an equal number of queries on trained networks."""

from __future__ import annotations

import pytest
import torch
from planted import seeds
from rbg_attacks.square import square
from second import torchattacks_module

from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

pytestmark = pytest.mark.parity
N, QUERIES, DRAWS = 150, 150, 3
BUDGETS = [
    ("mnist_cnn", "linf", (0.1, 0.15)), ("mnist_cnn", "l2", (1.5, 2.5)),
    ("colour_cnn", "linf", (0.02, 0.04)), ("colour_cnn", "l2", (0.4, 0.8)),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("network", "norm", "epsilons"), BUDGETS)
def test_as_many_fall_as_to_torchattacks_s(request, network, norm, epsilons):
    library = torchattacks_module()
    trained = request.getfixturevalue(network)
    x, y = trained.take(N)
    goal, name = Goal.untargeted(y), "Linf" if norm == "linf" else "L2"
    share = torch.zeros(2, DRAWS, len(epsilons), dtype=torch.float64)
    for at, eps in enumerate(epsilons):
        for draw in range(DRAWS):
            budget = Budget(norm, eps)
            # one query is the start's; it seeds torch's generator itself
            attack = library.Square(trained.model, norm=name, eps=eps, n_queries=QUERIES - 1, seed=draw)
            view = View.on(Bare(trained.model), seeds(N), access="scores", exact=True, whole_batches=True)
            ours = square(view, x, goal, budget, seeds(N, cell=draw + 1), queries=QUERIES)
            assert budget.contains(ours - x).all() and (view.counts.forward <= QUERIES).all()
            for who, made in enumerate((ours, attack(x, y))):
                share[who, draw, at] = goal.reached(Output.of(trained.model(made))).double().mean()
    ours_won, theirs_won = share.mean(dim=(1, 2)).tolist()
    # Theirs takes the same squares for the whole batch, so its share differs by points from draw to draw.
    deviation = float(share[1].mean(dim=1).std()) / DRAWS**0.5
    assert 0.05 < theirs_won < 0.95
    assert ours_won >= theirs_won - 0.02 - deviation, f"{ours_won} {theirs_won} {deviation}"

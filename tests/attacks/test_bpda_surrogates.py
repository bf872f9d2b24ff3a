"""BPDA's stand-ins: the defender's, the identity, and one that the attacker learns."""

from __future__ import annotations

import pytest
import torch
from planted import SHAPE, Linear, Scale, conv, images, seeds
from rbg_attacks._encoder import Encoder, imitate
from rbg_attacks.bpda import bpda
from rbg_attacks.bpda_learned import BpdaLearned

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.attacks import Training
from robustbench_gan.contracts.counts import Counts
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.data.dataset import Split
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.training.networks import fresh

N = 40
BUDGET = Budget("linf", 0.3)


class Misled(Scale):
    """Halves the input; the defender's stand-in has the wrong sign, so its gradient leads away from every goal."""

    def __init__(self, base):
        super().__init__(base, factor=0.5, stand_in=-1.0)


class Negative(Defense):
    """Turns the image into its negative, in steps that autograd cannot see through: the identity is misled."""

    purifies = True

    def purify(self, x, seed):
        return 1 - (x.detach() * 64).round() / 64


def problem(defense, seed=1):
    x = images(N, seed=seed)
    with torch.no_grad():
        y = defense(x, seeds(N)).logits.argmax(dim=1)
    return x, Goal.untargeted(y)


def fooled(attack, defense, **parameters):
    x, goal = problem(defense)
    view = View.on(Defended(defense, "bpda"), seeds(N), parts=defense.parts())
    made = attack(view, x, goal, BUDGET, seeds(N, cell=1), **parameters)
    with torch.no_grad():
        return goal.reached(defense(made, seeds(N))).float().mean(), made


def test_the_identity_does_not_believe_the_defender():
    defense = Misled(Linear(seed=3))
    parameters = {"steps": 10, "random_start": False}
    believed, _ = fooled(bpda, defense, surrogate="defender", **parameters)
    ignored, made = fooled(bpda, defense, surrogate="identity", **parameters)
    assert ignored > believed + 0.2
    _, honest = fooled(bpda, Scale(Linear(seed=3), factor=0.5, stand_in=1.0), **parameters)
    assert torch.equal(made, honest)  # it is the identity, whatever the defender says


def test_the_defenders_stand_in_is_the_default():
    defense = Misled(Linear(seed=3))
    assert torch.equal(fooled(bpda, defense)[1], fooled(bpda, defense, surrogate="defender")[1])


@pytest.mark.parametrize(
    "system", [Bare(conv()), Defended(Scale(conv()), "cut")], ids=["no defense", "cut gradient"]
)
def test_a_stand_in_needs_a_defended_system_with_a_gradient(system):
    with pytest.raises(PermissionError):
        bpda(View.on(system, seeds(2)), images(2), Goal.untargeted(torch.zeros(2).long()), BUDGET, seeds(2),
             surrogate="identity")  # fmt: skip


def training(defense, counts=None):
    data = Split((images(300, seed=9) * 255).to(torch.uint8), torch.zeros(300, dtype=torch.int64))

    def view(seed):
        counted = counts if counts is not None else Counts.zeros(1)
        return View(Defended(defense, "bpda"), seed, counted, torch.zeros_like(seed), whole_batches=True)

    return Training(data, view)


def learned(defense, **parameters):
    attack = fresh(
        lambda: BpdaLearned(
            SHAPE, 3, **{"images": 300, "epochs": 60, "batch_size": 50, "steps": 10, **parameters}
        ),
        0,
    )
    return attack, attack.fit(training(defense), None, BUDGET, 0)


def test_what_is_learned_leads_where_the_identity_is_misled():
    defense = Negative(Linear(seed=3))
    attack, facts = learned(defense)
    identity, _ = fooled(bpda, defense, surrogate="identity", steps=10, random_start=False)
    imitated, _ = fooled(attack, defense)
    assert facts["steps"] == 360 and facts["error"] < 0.02
    assert imitated > identity + 0.2


def test_training_is_deterministic_in_its_seed_and_counts_what_it_purifies():
    defense, counts = Negative(conv()), Counts.zeros(1)
    build = lambda: fresh(lambda: BpdaLearned(SHAPE, 3, images=70, epochs=1, batch_size=50), 0)  # noqa: E731
    one, two, other = build(), build(), build()
    one.fit(training(defense, counts), None, BUDGET, 0)
    two.fit(training(defense), None, BUDGET, 0)
    other.fit(training(defense), None, BUDGET, 1)
    weights = [torch.cat([p.flatten() for p in a.parameters()]) for a in (one, two, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert counts.forward.tolist() == [70] and not one.training


def test_the_encoder_learns_what_it_is_shown():
    x = images(200)
    network = fresh(lambda: Encoder(SHAPE), 0)
    first = imitate(network, x, x.flip(3), steps=1, batch_size=50, lr=2e-3, seed=0)
    last = imitate(network, x, x.flip(3), steps=600, batch_size=50, lr=2e-3, seed=0)
    assert last < 0.2 * first
    assert network(x).shape == x.shape and bool(((network(x) >= 0) & (network(x) <= 1)).all())


@pytest.mark.parametrize("name", ["steps", "images", "epochs", "batch_size", "lr"])
def test_fewer_than_one_of_anything_is_an_error(name):
    with pytest.raises(UsageError, match=name):
        BpdaLearned(SHAPE, 3, **{name: 0})

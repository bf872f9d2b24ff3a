"""The black-box attacker's substitute: how much it asks, what it asks for, and what it leaves out."""

from __future__ import annotations

import pytest
import torch
from planted import Linear
from torch import nn
from torch.nn import functional as F

from robustbench_gan import substitute
from robustbench_gan.data.dataset import HOLDOUT, Split
from robustbench_gan.models import Schedule
from robustbench_gan.substitute import augment, papernot

SHAPE = (1, 4, 4)


class Counting:
    """An oracle that knows the labels of a linear model, and remembers what it was asked."""

    def __init__(self, reject=lambda x: torch.zeros(len(x), dtype=torch.bool)):
        self.model, self.asked, self.reject = Linear(), [], reject

    def __call__(self, x):
        self.asked.append(x.clone())
        labels = self.model(x).argmax(dim=1)
        return torch.where(self.reject(x), -1, labels)


def held_out(count=HOLDOUT):
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randint(0, 256, (count, *SHAPE), generator=generator).to(torch.uint8)
    return Split(pixels, Linear()(pixels.float() / 255).argmax(dim=1))


def fresh():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3))


@pytest.fixture
def quick(monkeypatch):
    """One epoch a round instead of ten: the counts are the same."""
    monkeypatch.setattr(substitute, "SCHEDULE", Schedule(epochs=1, batch_size=50, lr=1e-2, one_cycle=False))


def test_the_first_round_asks_nothing(quick):
    oracle = Counting()
    info = papernot(fresh(), held_out(), oracle, rounds=1, seed=0)
    assert info == {"points": 150, "queries": 0, "rejected": 0, "rounds": 1} and oracle.asked == []


@pytest.mark.parametrize(("rounds", "points"), [(2, 300), (3, 600), (6, 4800)])
def test_every_round_doubles_and_asks_for_the_new_points_alone(quick, rounds, points):
    oracle = Counting()
    info = papernot(fresh(), held_out(), oracle, rounds=rounds, seed=0)
    assert info == {"points": points, "queries": points - 150, "rejected": 0, "rounds": rounds}
    assert [len(x) for x in oracle.asked] == [150 * 2**r for r in range(rounds - 1)]


def test_new_points_stand_a_tenth_off_the_old_ones_unclipped(quick):
    oracle = Counting()
    papernot(fresh(), held_out(), oracle, rounds=3, seed=0)
    first, second = oracle.asked
    known = torch.cat([held_out().pixels(), first])
    for new, old in ((first, held_out().pixels()), (second, known)):
        step = (new - old).abs()
        assert torch.allclose(step, torch.full_like(step, 0.1), atol=1e-6)
    assert first.min() < 0 and first.max() > 1


def test_augmentation_follows_the_gradient_of_the_label_s_probability():
    model, x = fresh(), held_out(10).pixels()
    labels = torch.arange(10) % 3
    leaf = x.clone().requires_grad_()
    F.softmax(model(leaf), dim=1)[torch.arange(10), labels].sum().backward()
    assert torch.equal(augment(model, x, labels), x + 0.1 * leaf.grad.sign())


def test_rejected_points_are_counted_and_left_out(quick):
    oracle = Counting(reject=lambda x: torch.arange(len(x)) % 3 == 0)
    info = papernot(fresh(), held_out(), oracle, rounds=3, seed=0)
    # 150 asked, 50 rejected, 250 held; 250 asked, 84 rejected, 416 held.
    assert info == {"points": 416, "queries": 400, "rejected": 134, "rounds": 3}
    assert [len(x) for x in oracle.asked] == [150, 250]


def test_the_oracle_s_labels_are_what_it_learns():
    # An oracle that answers 2 for every new point: after training, the substitute says 2 there.
    seen = []

    def oracle(x):
        seen.append(x)
        return torch.full((len(x),), 2)

    model = fresh()
    papernot(model, held_out(), oracle, rounds=4, seed=0)
    far = seen[-1][-150:]
    assert (model(far).argmax(dim=1) == 2).double().mean() > 0.8


def test_it_is_the_same_for_the_same_seed_and_agrees_with_its_oracle():
    models, oracle = [fresh(), fresh()], Counting()
    for model in models:
        papernot(model, held_out(), oracle, rounds=3, seed=7)
    x = held_out(100).pixels()
    assert torch.equal(models[0](x), models[1](x))
    agreed = models[0](x).argmax(dim=1) == oracle.model(x).argmax(dim=1)
    assert agreed.double().mean() > 0.75

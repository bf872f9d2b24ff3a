"""The black-box attacker's substitute: how much it asks, what it asks for, and what it leaves out."""

from __future__ import annotations

import pytest
import torch
from planted import Linear
from torch import nn
from torch.nn import functional as F

from robustbench_gan.data.dataset import HOLDOUT, Split
from robustbench_gan.models.schedule import Schedule
from robustbench_gan.training import substitute
from robustbench_gan.training.loop import optimise
from robustbench_gan.training.substitute import augment, dynamic, papernot, static

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


def test_a_periodic_step_turns_after_three_augmentations_and_back_after_three_more(quick, monkeypatch):
    steps = []

    def recorded(model, images, labels, *, step):
        steps.append(step)
        return images[:1]  # one point a round, so that seven rounds stay short

    monkeypatch.setattr(substitute, "augment", recorded)
    papernot(fresh(), held_out(), Counting(), rounds=8, seed=0, step_sign="periodic")
    assert steps == [0.1, 0.1, 0.1, -0.1, -0.1, -0.1, 0.1]
    steps.clear()
    papernot(fresh(), held_out(), Counting(), rounds=8, seed=0)
    assert steps == [0.1] * 7


def test_a_step_back_goes_against_the_gradient():
    model, x = fresh(), held_out(10).pixels()
    labels = torch.arange(10) % 3
    there, back = augment(model, x, labels), augment(model, x, labels, step=-0.1)
    assert torch.allclose(there - x, x - back, atol=1e-6) and not torch.equal(there, x)


def test_the_two_sign_rules_are_one_until_the_fourth_augmentation(quick):
    asked = {}
    for sign in ("plus", "periodic"):
        oracle = Counting()
        papernot(fresh(), held_out(20), oracle, rounds=6, seed=0, step_sign=sign)
        asked[sign] = oracle.asked
    same = [torch.equal(a, b) for a, b in zip(asked["plus"], asked["periodic"], strict=True)]
    assert same == [True, True, True, False, False]
    assert [len(x) for x in asked["periodic"]] == [20, 40, 80, 160, 320]


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


# ---- distillation


def probabilities(x):
    return Linear()(x).softmax(dim=1).detach()


def test_static_asks_once_for_every_image_and_learns_in_as_many_passes_as_rounds(monkeypatch):
    oracle, passes = Counting(), []

    def recorded(module, data, loss, schedule, **rest):
        passes.append((len(data), schedule.epochs))
        return optimise(module, data, loss, schedule, **rest)

    monkeypatch.setattr(substitute, "optimise", recorded)
    info = static(fresh(), held_out(40), oracle, rounds=3, seed=0)
    assert info == {"points": 40, "queries": 40, "rejected": 0, "rounds": 3}
    assert [len(x) for x in oracle.asked] == [40] and passes == [(40, 3)]
    assert torch.equal(oracle.asked[0], held_out(40).pixels())  # the images as they are


@pytest.mark.parametrize("answers", [Counting(), probabilities], ids=["labels", "scores"])
def test_static_agrees_with_its_oracle(quick, answers):
    model = fresh()
    static(model, held_out(), answers, rounds=40, seed=0)
    x = held_out().pixels()
    assert (model(x).argmax(dim=1) == Linear()(x).argmax(dim=1)).double().mean() > 0.9


def test_probabilities_teach_more_than_their_largest(quick):
    # An oracle that is never sure: a substitute of labels becomes sure, one of probabilities does not.
    def unsure(x):
        labels = Linear()(x).argmax(dim=1)
        return F.one_hot(labels, 3) * 0.4 + 0.2

    soft, hard = fresh(), fresh()
    static(soft, held_out(), unsure, rounds=60, seed=0)
    static(hard, held_out(), Counting(), rounds=60, seed=0)
    x = held_out().pixels()
    confidence = [model(x).softmax(dim=1).amax(dim=1).mean() for model in (soft, hard)]
    assert abs(confidence[0] - 0.6) < 0.1 < confidence[1] - confidence[0]


@pytest.mark.parametrize("soft", [False, True])
def test_distillation_leaves_out_what_the_oracle_rejects(soft):
    def some(x):
        answers = probabilities(x) if soft else Linear()(x).argmax(dim=1)
        gone = torch.arange(len(x)) % 4 == 0
        return answers * ~gone[:, None] if soft else torch.where(gone, -1, answers)

    assert static(fresh(), held_out(40), some, rounds=1, seed=0) == {
        "points": 30, "queries": 40, "rejected": 10, "rounds": 1,
    }  # fmt: skip


def test_dynamic_asks_learns_and_lets_the_generator_train_in_turns(monkeypatch):
    model, oracle, log = fresh(), Counting(), []

    def learnt(module, data, loss, schedule, **rest):
        log.append(("learn", len(data), schedule.epochs, float(data.images[-1].mean())))

    def craft(x, y):
        log.append(("craft", len(y)))
        return torch.full_like(x, 0.1 * len(log))

    monkeypatch.setattr(substitute, "optimise", learnt)
    info = dynamic(model, held_out(10), oracle, craft, lambda at: log.append(("fit", at)), rounds=2, seed=0)
    assert [entry[:2] for entry in log] == [
        ("craft", 10), ("learn", 20), ("fit", 0), ("craft", 10), ("learn", 20), ("fit", 1),
    ]  # fmt: skip
    assert [entry[2] for entry in log if entry[0] == "learn"] == [1, 1]
    # It learns the examples of the round at hand, and asks for the clean images only once.
    assert [round(entry[3], 2) for entry in log if entry[0] == "learn"] == [0.1, 0.4]
    assert [len(x) for x in oracle.asked] == [10, 10, 10]
    assert info == {"points": 20, "queries": 30, "rejected": 0, "rounds": 2}

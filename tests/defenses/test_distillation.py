"""Defensive distillation: what teacher and student learn, the temperature, and the gradient that it hides."""

from __future__ import annotations

import pytest
import torch
from planted import conv, images, seeds, separable
from rbg_attacks.cw import cw
from rbg_attacks.fgsm import fgsm
from rbg_defenses.distillation import Descent, Distillation, Softened, Tempered
from torch import nn
from torch.nn import functional as F

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.systems import Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.training.loop import accuracy
from robustbench_gan.training.networks import freeze


def built(store=None, base=None, key="base", seed=0, **more):
    base = freeze(conv(2)) if base is None else base
    defense = Distillation(base, **{"epochs": 1, "batch_size": 16, **more})
    defense.base_key = key
    if store is not None:
        defense.fit(separable(), seed, store)
        freeze(defense)
    return defense


@pytest.fixture
def descents(monkeypatch):
    """Every call of the training, with the weights that it started from and ended with."""
    calls, real = [], Descent.train

    def train(self, model, data, temperature, epochs, seed):
        before = {k: v.clone() for k, v in model.state_dict().items()}
        real(self, model, data, temperature, epochs, seed)
        after = {k: v.clone() for k, v in model.state_dict().items()}
        calls.append((data, temperature, epochs, before, after))

    monkeypatch.setattr(Descent, "train", train)
    return calls


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_teacher_and_student_start_from_the_same_plainly_trained_network(store, descents):
    built(store, epochs=3, initial_epochs=2, temperature=20.0)
    plain, teacher, again, student = descents
    assert [(temperature, epochs) for _, temperature, epochs, *_ in descents] == [(1, 2), (20, 3)] * 2
    assert same(plain[3], again[3]) and same(plain[4], again[4])
    assert same(teacher[3], plain[4]) and same(student[3], plain[4])
    assert not same(plain[3], plain[4]) and not same(teacher[4], student[4])


def test_the_student_learns_the_teacher_s_softmax_at_the_temperature(store, descents):
    defense = built(store, epochs=2, temperature=7.0)
    (_, teacher, _, student), base = descents, conv(2)
    assert torch.equal(teacher[0].labels, separable().train.labels)
    base.load_state_dict(teacher[4])
    expected = F.softmax(base(separable().train.pixels()) / 7.0, dim=1)
    assert isinstance(student[0], Softened) and torch.allclose(student[0].labels, expected, atol=1e-6)
    assert torch.equal(
        student[0].pixels(torch.tensor([3, 1])), separable().train.pixels(torch.tensor([3, 1]))
    )
    assert same(student[4], defense.core.state_dict())


def test_the_core_answers_at_temperature_one_and_the_part_at_its_own(store):
    defense = built(store, temperature=50.0)
    x = images(5)
    logits = defense(x, seeds(5)).logits
    assert torch.equal(logits, defense.core(x))
    assert torch.allclose(defense.parts()["softened"](x) * 50.0, logits, rtol=1e-5)


def test_the_step_is_nesterov_s_with_the_falling_rate():
    # One weight, one image a batch: v' = m v + g, w' = w - lr_t (g + m v'), by hand.
    data = separable(3)
    model = nn.Sequential(
        nn.AvgPool2d(tuple(data.shape[1:])), nn.Flatten(), nn.Linear(data.shape[0], 2, bias=False)
    )
    hand = model[2].weight.detach().clone().double()
    mean = data.train.pixels().mean(dim=(2, 3)).double()
    order = torch.randperm(3, generator=torch.Generator().manual_seed(4)).tolist()
    velocity = torch.zeros_like(hand)
    for step, i in enumerate(order):
        p = torch.softmax(mean[i] @ hand.T / 2.0, dim=0) - F.one_hot(data.train.labels[i], 2)
        gradient = torch.outer(p, mean[i]) / 2.0
        velocity = 0.9 * velocity + gradient
        hand = hand - 0.5 / (1 + 0.1 * step) * (gradient + 0.9 * velocity)
    Descent(1, 0.5, 0.9, 0.1).train(model, data.train, 2.0, 1, 4)
    assert torch.allclose(model[2].weight.double(), hand, atol=1e-6)


def test_a_loss_that_is_no_number_ends_the_training():
    with pytest.raises(RuntimeError, match="the loss became"):
        Descent(8, 1e30, 0.9, 0.0).train(conv(2), separable().train, 1.0, 3, 0)


def test_the_cross_entropy_hides_and_the_logits_do_not(store):
    # What Carlini and Wagner found: FGSM sees exact zeros, the margin of the logits does not.
    # A logit is a hundred times what the training at temperature 100 made of it.
    defense = built(store, epochs=60, initial_epochs=0, lr=3.0, temperature=100.0)
    data = separable()
    x, y = data.test.pixels(), data.test.labels
    assert accuracy(defense.core, data.test) == 1.0
    view = View.on(Defended(defense), seeds(32), exact=True)
    made = fgsm(view, x, Goal.untargeted(y), Budget("linf", 0.4), seeds(32))
    hidden = (made == x).flatten(1).all(dim=1)
    assert hidden.double().mean() > 0.5 and int(view.counts.zero_gradients.sum()) == int(hidden.sum())
    broken = cw(view, x, Goal.untargeted(y), Budget("l2", float("inf")), seeds(32), preset="fast")
    assert (defense(broken, seeds(32)).logits.argmax(dim=1) != y).all()
    softened = Tempered(defense.core, 100.0)
    leaf = x.clone().requires_grad_()
    F.cross_entropy(softened(leaf), y).backward()
    assert (leaf.grad.flatten(1).abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("change", [
    {"temperature": 10.0}, {"epochs": 2}, {"initial_epochs": 0}, {"batch_size": 8}, {"lr": 0.1}, {"momentum": 0.5},
    {"decay": 0.0}, {"key": "another classifier"}, {"seed": 1},
])  # fmt: skip
def test_whatever_decides_the_training_is_in_the_recipe(store, change):
    plain, changed = built(store).training_keys(), built(store, **change).training_keys()
    assert plain["teacher"] != changed["teacher"] and plain["student"] != changed["student"]


@pytest.mark.parametrize("bad", [
    {"temperature": 0.0}, {"epochs": 0}, {"initial_epochs": -1}, {"batch_size": 0}, {"lr": 0.0}, {"momentum": 1.0},
    {"momentum": 0.0}, {"decay": -1.0},
])  # fmt: skip
def test_impossible_values_are_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        built(**bad)


def test_the_base_is_kept(store):
    base = freeze(conv(2))
    before = {k: v.clone() for k, v in base.state_dict().items()}
    defense = built(store, base=base)
    assert defense.base is base and defense.core is not base and same(base.state_dict(), before)

"""Defense-GAN: what is part of its recipe, what it purifies to, which values are refused."""

from __future__ import annotations

import pytest
import torch
from planted import conv, images, seeds, separable
from rbg_defenses._projection import descend
from rbg_defenses.defense_gan import DefenseGAN
from tiny_defense_gan import TINY, fitted
from torch import nn

from robustbench_gan.base import machine
from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.composition import Composed
from robustbench_gan.contracts.defense import recipe_of
from robustbench_gan.training.store import Store


def test_what_is_chosen_at_test_time_does_not_retrain_the_generator(store):
    first = fitted(store)
    for change in (
        {"iterations": 9},
        {"restarts": 5},
        {"lr": 1.0},
        {"momentum": 0.1},
        {"preset": "clean"},
        {"init": "prior"},
        {"prune": True},
        {"precision": "bf16"},
    ):
        assert fitted(store, **change).training_keys() == first.training_keys(), change
    assert len(list(store)) == 1


@pytest.mark.parametrize(
    "change",
    [{"width": 3}, {"latent": 5}, {"gan_steps": 3}, {"gan_batch": 5}, {"gan_lr": 1e-3}, {"critic_steps": 1},
     {"gp": "column"}, {"ema": 0.5}, {"gan_decay": True}],
)  # fmt: skip
def test_what_trains_the_generator_is_in_its_recipe(store, change):
    assert fitted(store, **change).training_keys() != fitted(store).training_keys()


@pytest.mark.parametrize("here", [True, False])
def test_what_became_of_bfloat16_is_said_and_part_of_what_is_trained_against_it(store, monkeypatch, here):
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda device: here)
    plain, asked = fitted(store), fitted(store, precision="bf16")
    assert plain.precision() == {} and asked.precision() == ({} if here else {"bf16": "float32"})
    both = Composed([DefenseGAN(conv(3, (1, 28, 28)), **TINY), asked])
    assert both.precision() == ({} if here else {"1.bf16": "float32"})
    became = [] if here else [{"bf16": "float32"}]
    assert recipe_of("text", asked) == ["text", [("generator", asked.keys["generator"])], *became]
    x, seed = separable(2, (1, 28, 28), classes=3).test.pixels(), seeds(2)
    if not here:  # and what it said is what it does
        assert torch.equal(asked.purify(x[:2], seed), plain.purify(x[:2], seed))


def test_purify_is_the_projection_with_and_without_a_gradient(store):
    defense, x = fitted(store), images(3, (1, 28, 28))
    with torch.no_grad():
        z, _, _ = descend(defense.generator, x, defense.projection.start(seeds(3), 4), defense.projection)
        value = defense.purify(x, seeds(3))
    assert torch.equal(value, defense.generator(z))
    leaf = x.clone().requires_grad_()
    assert torch.allclose(defense.purify(leaf, seeds(3)), value, atol=1e-6)
    assert torch.allclose(defense.truncated(leaf, seeds(3), 1), value, atol=1e-6)
    assert (
        list(defense.parts()) == ["generator", "classifier"] and defense.parts()["classifier"] is defense.core
    )


@pytest.mark.parametrize(
    "bad", [{"iterations": 0}, {"restarts": 0}, {"lr": 0.0}, {"momentum": 1.0}, {"width": 0}, {"latent": 0}]
)
def test_impossible_values_are_refused(bad):
    with pytest.raises(UsageError, match="defense-gan needs"):
        DefenseGAN(nn.Identity(), **bad)


@pytest.mark.parametrize(
    "bad",
    [{"rec_images": 0}, {"rec_iterations": 0}, {"rec_restarts": 0}, {"classifier_epochs": 0}, {"detect_fpr": 1.0},
     {"detect_fpr": -0.1}],
)  # fmt: skip
def test_an_impossible_classifier_or_detector_is_refused(bad):
    with pytest.raises(UsageError, match="rec_images, rec_iterations"):
        DefenseGAN(nn.Identity(), **bad)


@pytest.mark.parametrize(
    "bad",
    [{"gan_steps": 0}, {"critic_steps": 0}, {"gan_batch": 0}, {"gan_lr": 0.0}, {"ema": 1.0}, {"ema": -0.1}],
    ids=str,
)
def test_an_impossible_training_is_refused(bad):
    with pytest.raises(UsageError, match="a GAN needs"):
        DefenseGAN(nn.Identity(), **bad)


def test_images_of_another_side_are_refused(tmp_path):
    defense = DefenseGAN(conv(2), **TINY)
    with pytest.raises(UsageError, match="resize the data"):
        defense.fit(separable(), 0, Store(tmp_path))


@pytest.mark.parametrize(
    ("asked", "init"), [({}, "small"), ({"preset": "clean"}, "prior"), ({"init": "prior"}, "prior")]
)
def test_training_images_are_rebuilt_from_codes_like_those_at_test_time(asked, init):
    defense = DefenseGAN(nn.Identity(), **asked)
    assert defense.projection.init == defense.for_training.init == init

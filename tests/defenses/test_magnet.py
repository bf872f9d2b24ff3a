"""MagNet: the autoencoder learns to remove noise, and what its recipe holds."""

from __future__ import annotations

import pytest
import torch
from planted import conv, images, seeds, separable
from rbg_defenses.magnet import Autoencoder, MagNet

from robustbench_gan.errors import UsageError

SHAPE = (1, 4, 4)


def fitted(store, **more):
    defense = MagNet(conv(2), **{"epochs": 1, "batch_size": 16, **more})
    defense.fit(separable(), 0, store)
    return defense


def test_it_learns_to_reform(store):
    data = separable()
    x = data.test.pixels()
    error = [(fitted(store, epochs=e, lr=0.02).purify(x, seeds(len(x))) - x).square().mean() for e in (1, 40)]
    assert error[1] < 0.02 < error[0]


def test_noise_is_removed(store):
    defense, x = fitted(store, epochs=60, lr=0.02, noise=0.1), separable().test.pixels()
    noisy = (x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    reformed = defense.purify(noisy, seeds(len(x)))
    assert (reformed - x).square().mean() < (noisy - x).square().mean()


def test_it_answers_with_the_classifier_on_the_reformed_image(store):
    defense, x = fitted(store), images(5)
    out = defense(x, seeds(5))
    assert torch.equal(out.logits, defense.base(defense.parts()["reformer"](x).clamp(0, 1)))
    assert out.scores.shape == (5, 0) and list(defense.parts()) == ["reformer"]


@pytest.mark.parametrize(
    "change", [{"width": 4}, {"noise": 0.2}, {"epochs": 2}, {"batch_size": 8}, {"lr": 0.01}]
)
def test_every_parameter_is_in_the_recipe(store, change):
    assert fitted(store, **change).training_keys() != fitted(store).training_keys()


def test_the_classifier_is_not(store):
    one, two = MagNet(conv(2, seed=1), epochs=1), MagNet(conv(2, seed=2), epochs=1)
    one.base_key, two.base_key = "one", "two"
    for defense in (one, two):
        defense.fit(separable(), 0, store)
    assert one.training_keys() == two.training_keys() and len(list(store)) == 1


def test_the_autoencoder_keeps_shape_and_range():
    for shape in ((1, 28, 28), (3, 6, 4)):
        made = Autoencoder(shape[0], 3)(images(2, shape))
        assert made.shape == (2, *shape) and made.min() >= 0 and made.max() <= 1


@pytest.mark.parametrize("bad", [{"width": 0}, {"noise": -0.1}])
def test_impossible_values_are_refused(bad):
    with pytest.raises(UsageError, match="magnet needs"):
        MagNet(conv(2), **bad)


def test_odd_sides_are_refused(store):
    with pytest.raises(UsageError, match="even sides, not 5x4"):
        MagNet(conv(2, (1, 5, 4))).fit(separable(shape=(1, 5, 4)), 0, store)

"""MagNet: what its autoencoders are and learn, what their recipe holds, and the collection of which one is drawn."""

from __future__ import annotations

import pytest
import torch
from planted import conv, images, seeds, separable
from rbg_defenses._autoencoder import Autoencoder, CodeAutoencoder
from rbg_defenses.magnet import MagNet
from torch.nn import functional as F

from robustbench_gan.base.errors import UsageError
from robustbench_gan.training.networks import freeze


def fitted(store, **more):
    defense = MagNet(conv(2), **{"epochs": 1, "batch_size": 16, **more})
    defense.fit(separable(), 0, store)
    return freeze(defense)


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


@pytest.mark.parametrize("networks", ["mnist", "cifar10"])
def test_it_answers_with_the_classifier_on_the_reformed_image(store, networks):
    defense, x = fitted(store, networks=networks), images(5)
    out = defense(x, seeds(5))
    assert torch.equal(out.logits, defense.base(defense.parts()["reformer"](x).clamp(0, 1)))
    assert out.scores.shape == (5, 0) and list(defense.parts()) == ["reformer"]
    assert defense.detectors == ()


@pytest.mark.parametrize(
    "change",
    [
        {"width": 4},
        {"noise": 0.2},
        {"epochs": 2},
        {"batch_size": 8},
        {"lr": 0.01},
        {"one_cycle": True},
        {"networks": "cifar10", "noise": 0.1},
        {"collection": 2},
    ],
)
def test_every_parameter_of_the_training_is_in_the_recipe(store, change):
    assert fitted(store, **change).training_keys() != fitted(store).training_keys()


def test_diversity_is_in_the_recipe_of_a_collection_alone(store):
    def key(**change):
        return fitted(store, **change).training_keys()

    assert key(diversity=0.5) == key()
    assert key(collection=2, diversity=0.5) != key(collection=2)


def test_the_classifier_is_not(store):
    one, two = MagNet(conv(2, seed=1), epochs=1), MagNet(conv(2, seed=2), epochs=1)
    one.base_key, two.base_key = "one", "two"
    for defense in (one, two):
        defense.fit(separable(), 0, store)
    assert one.training_keys() == two.training_keys() and len(list(store)) == 1


@pytest.mark.parametrize(
    ("networks", "width", "noise"), [("mnist", 3, 0.1), ("cifar10", 3, 0.025), ("defense-gan", 64, 0.0)]
)
def test_width_and_noise_are_the_published_ones_of_the_networks(networks, width, noise):
    training = MagNet(conv(2), networks=networks).trainings["reformer"]
    assert (training.width, training.noise) == (width, noise)
    asked = MagNet(conv(2), networks=networks, width=5, noise=0.5).trainings["reformer"]
    assert (asked.width, asked.noise) == (5, 0.5)


@pytest.mark.parametrize("pooled", [True, False])
def test_the_autoencoder_keeps_shape_and_range(pooled):
    for shape in ((1, 28, 28), (3, 6, 4)):
        made = Autoencoder(shape[0], 3, pooled)(images(2, shape))
        assert made.shape == (2, *shape) and made.min() >= 0 and made.max() <= 1


def test_autoencoder_one_is_the_published_chain_of_layers():
    network, x = Autoencoder(1, 3), images(2, (1, 8, 6))
    one, two, three, four = network.convolutions
    small = F.avg_pool2d(one(x).sigmoid(), 2)
    large = three(two(small).sigmoid()).sigmoid().repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.allclose(network(x), network.last(four(large).sigmoid()).sigmoid(), atol=1e-6)
    assert sum(p.numel() for p in network.parameters()) == 30 + 3 * 84 + 28


def test_autoencoder_two_does_not_pool():
    network, x = Autoencoder(1, 3, pooled=False), images(2, (1, 5, 7))
    one, two = network.convolutions
    assert torch.equal(network(x), network.last(two(one(x).sigmoid()).sigmoid()).sigmoid())
    assert sum(p.numel() for p in network.parameters()) == 30 + 84 + 28


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_the_baseline_s_autoencoder_goes_through_a_code(shape):
    network, seen = CodeAutoencoder(shape, 4), []
    network.code.register_forward_hook(lambda _, given, made: seen.append((given[0].shape, made.shape)))
    made = network(images(2, shape))
    assert made.shape == (2, *shape) and made.min() >= 0 and made.max() <= 1
    assert seen == [((2, 4 * 4 * 4 * 4), (2, 128))]
    weights = [tuple(layer.weight.shape) for layer in (network.down1, network.down2, network.down3)]
    assert weights == [(4, shape[0], 5, 5), (8, 4, 5, 5), (16, 8, 5, 5)]


def test_the_baseline_reforms_and_rejects_nothing(store):
    data = separable(32, (1, 28, 28))
    defense = MagNet(conv(2, data.shape), networks="defense-gan", width=2, epochs=1, batch_size=16)
    defense.fit(data, 0, store)
    out = defense(data.test.pixels(), seeds(32))
    assert out.scores.shape == (32, 0) and isinstance(defense.parts()["reformer"], CodeAutoencoder)


def test_each_sample_s_seed_draws_one_of_the_collection(store):
    defense, x = fitted(store, collection=3), images(1).expand(60, -1, -1, -1)
    made = defense.purify(x, seeds(60))
    by = [part(x[:1]) for part in defense.parts().values()]
    assert list(defense.parts()) == ["reformer-0", "reformer-1", "reformer-2"]
    used = [torch.isclose(made, image, atol=1e-6).flatten(1).all(dim=1) for image in by]
    assert all(rows.sum() >= 10 for rows in used) and sum(rows.sum() for rows in used) == 60
    assert not torch.equal(defense.purify(x, seeds(60, cell=1)), made)
    later = defense.purify(x[:20], seeds(60)[40:])
    assert torch.allclose(later, made[40:], atol=1e-6)


def test_only_a_collection_is_random(store):
    assert fitted(store, collection=2).randomised
    alone, x = fitted(store), images(5)
    assert not alone.randomised and not MagNet.randomised
    assert torch.equal(alone.purify(x, seeds(5)), alone.purify(x, seeds(5, cell=1)))


def test_diversity_drives_the_collection_apart(store):
    x = separable().test.pixels()

    def spread(diversity):
        defense = fitted(store, collection=2, diversity=diversity, epochs=20, lr=0.02)
        one, two = (part(x) for part in defense.parts().values())
        return (one - two).square().mean()

    assert spread(0.9) > 1.2 * spread(0.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"width": 0},
        {"width": 2.5},
        {"width": "wide"},
        {"noise": -0.1},
        {"noise": float("nan")},
        {"epochs": 0},
        {"lr": 0.0},
        {"batch_size": 0},
        {"fpr": 1.0},
        {"divergence_fpr": -0.1},
        {"collection": 0},
        {"diversity": -1.0},
    ],
)
def test_impossible_values_are_refused(bad):
    with pytest.raises(UsageError, match="magnet needs"):
        MagNet(conv(2), **bad)


def test_the_baseline_has_no_detectors_to_ask_for():
    with pytest.raises(UsageError, match="networks=defense-gan have no detectors"):
        MagNet(conv(2), networks="defense-gan", detectors="all")


def test_odd_sides_are_refused_where_the_network_pools(store):
    odd = separable(shape=(1, 5, 4))
    with pytest.raises(UsageError, match="even sides, not 5x4"):
        MagNet(conv(2, (1, 5, 4))).fit(odd, 0, store)
    MagNet(conv(2, (1, 5, 4)), networks="cifar10", epochs=1).fit(odd, 0, store)

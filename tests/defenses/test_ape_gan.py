"""APE-GAN: its networks and losses against known answers, what it is trained on, and that it purifies."""

from __future__ import annotations

import math

import pytest
import torch
from planted import conv, images, seeds, separable
from rbg_attacks.fgsm import fgsm
from rbg_defenses import ape_gan
from rbg_defenses._ape_networks import Discriminator, Purifier, with_batch_statistics
from rbg_defenses._pairs import InnerAttack, Pairs
from rbg_defenses._turns import Player
from rbg_defenses.ape_gan import APEGAN, LOSSES, Adversaries, total_variation
from torch.nn import functional as F

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.training.networks import freeze, fresh

SHAPE = (1, 28, 28)
BOTH = ("author", "port")


def built(store=None, base=None, data=None, key="base", seed=0, **more):
    base = freeze(conv(2, SHAPE)) if base is None else base
    defense = APEGAN(base, **{"epochs": 1, "batch_size": 16, "width": 2, **more})
    defense.base_key = key
    if store is not None:
        defense.fit(data or separable(32, SHAPE), seed, store)
        freeze(defense)
    return defense


def purifier(architecture="author", shape=SHAPE, width=4):
    return fresh(lambda: Purifier(shape, width, architecture), 0).eval()


@pytest.mark.parametrize("architecture", BOTH)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 12)])
def test_images_keep_their_shape_and_range(architecture, shape):
    made = purifier(architecture, shape)(images(3, shape))
    assert made.shape == (3, *shape) and made.min() >= 0 and made.max() <= 1


@pytest.mark.parametrize(("architecture", "shape", "features"), [
    ("author", (1, 28, 28), 4096), ("author", (3, 32, 32), 4096), ("port", (1, 28, 28), 1024), ("port", (3, 32, 32), 2304),
])  # fmt: skip
def test_the_discriminator_ends_in_as_many_features_as_the_released_code_s(architecture, shape, features):
    network = Discriminator(shape, 64, architecture)
    assert network.last.in_features == features
    assert network(images(2, shape)).shape == (2,)


@pytest.mark.parametrize(("architecture", "kernel", "discriminators"), [("author", 5, 5), ("port", 4, 3)])
def test_the_kernels_are_those_of_the_released_code(architecture, kernel, discriminators):
    g, d = purifier(architecture, width=64), Discriminator(SHAPE, 64, architecture)
    assert [tuple(layer.weight.shape) for layer in (g.down1, g.down2, g.up1, g.up2)] == [
        (64, 1, kernel, kernel), (128, 64, kernel, kernel), (128, 64, kernel, kernel), (64, 1, kernel, kernel),
    ]  # fmt: skip
    assert [layer.out_channels for layer in d.downs] == [64, 128, 256]
    assert all(layer.kernel_size == (discriminators,) * 2 and layer.stride == (2, 2) for layer in d.downs)


def test_a_strided_convolution_is_padded_as_tensorflow_pads():
    # One tap on the kernel's own corner shows where it starts: TensorFlow puts one row before, two after.
    g = purifier(width=1)
    with torch.no_grad():
        g.down1.weight.zero_()[0, 0, 1, 1] = 1.0  # the pixel at twice the position
        g.down1.bias.zero_()
    x = images(1, SHAPE)
    seen = []
    g.norm1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    g.raw(x)
    assert torch.allclose(seen[0], 2 * x[:, :, ::2, ::2] - 1)


def test_the_author_s_network_sees_pixels_from_minus_one_and_the_port_s_from_zero():
    for architecture, low in (("author", -1.0), ("port", 0.0)):
        g, seen = purifier(architecture), []
        g.down1.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))
        g(torch.zeros(1, *SHAPE))
        assert seen[0][0, 0, 14, 14] == low


def test_a_tanh_of_zero_is_the_middle_for_the_author_and_black_for_the_port():
    for architecture, value in (("author", 0.5), ("port", 0.0)):
        g = purifier(architecture)
        with torch.no_grad():
            g.up2.weight.zero_()
            g.up2.bias.zero_()
        assert (g(images(1, SHAPE)) == value).all()


def test_total_variation_of_a_staircase():
    rows = torch.arange(4.0).reshape(1, 1, 4, 1).expand(1, 1, 4, 5)
    columns = torch.arange(5.0).reshape(1, 1, 1, 5).expand(1, 1, 4, 5)
    assert total_variation(rows) == 1.0 and total_variation(2 * rows - 3 * columns) == 5.0
    assert total_variation(torch.full((2, 1, 4, 4), 0.3)) == 0.0


class Constant(torch.nn.Module):
    """A critic whose logit is the mean pixel times a slope."""

    def forward(self, x):
        return x.flatten(1).mean(dim=1)


class Half(torch.nn.Module):
    """A generator that halves the values of the network's range."""

    signed = True

    def raw(self, x):
        return (2 * x - 1) / 2


def bce(logits, real):
    return F.binary_cross_entropy(torch.sigmoid(logits), torch.full_like(logits, real))


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_losses_are_the_published_ones(name):
    attacked, clean = images(4, SHAPE, seed=1), images(4, SHAPE, seed=2)
    game, critic = Adversaries(Half(), Constant(), LOSSES[name]), Constant()
    made, target, of_clean = attacked - 0.5, 2 * clean - 1, clean - 0.5
    mse, real = F.mse_loss(made, target), bce(critic(made), 1.0)
    expected = {
        "arxiv": 0.7 * mse + 0.3 * real,
        "author": 0.9 * mse.sqrt() + 0.02 * real,
        "icassp": 0.1 * mse + 0.45 * (real + bce(critic(of_clean), 1.0)) / 2 + 0.45 * total_variation(made),
    }[name]
    assert torch.allclose(game.of_generator(attacked, clean), expected)
    fooled = bce(critic(made), 0.0)
    if name == "icassp":
        fooled = (fooled + bce(critic(of_clean), 0.0) + bce(critic(2 * attacked - 1), 0.0)) / 3
    assert torch.allclose(game.of_critic(attacked, clean), bce(critic(target), 1.0) + fooled)


def test_pairs_are_the_attack_s_images_inside_the_ball_and_keep_float32():
    model, data = freeze(conv(2, SHAPE)), separable(40, SHAPE)
    inner = InnerAttack.named("fgsm", "linf", 0.1, by="test")
    made = inner.on(model, data.train, 0)
    x, y = data.train.pixels(), data.train.labels
    assert inner.function is fgsm and made.shape == x.shape and made.dtype == torch.float32
    expected = fgsm(View.on(Bare(model), seeds(40)), x, Goal.untargeted(y), Budget("linf", 0.1), seeds(40))
    assert torch.equal(made, expected) and Budget("linf", 0.1).contains(made - x).all()
    assert not torch.equal((made * 255).round() / 255, made)


def test_the_later_half_of_pairs_with_clean_is_every_clean_image_on_both_sides():
    data, given = separable(6, SHAPE).train, images(6, SHAPE)
    pairs, index = Pairs(data, given, with_clean=True), torch.tensor([5, 6, 0, 11])
    seen, wanted = pairs.pixels(index).chunk(2, dim=1)
    assert len(pairs) == 12 and torch.equal(wanted, data.pixels(index % 6))
    assert torch.equal(seen[::2], given[[5, 0]]) and torch.equal(
        seen[1::2], data.pixels(torch.tensor([0, 5]))
    )
    assert torch.equal(pairs.labels[index], data.labels[index % 6])
    assert len(Pairs(data, given)) == len(Pairs(data, given).labels) == 6


@pytest.mark.parametrize(("clean_pairs", "rows"), [(False, 32), (True, 64)])
def test_every_epoch_shows_every_pair_once(store, monkeypatch, clean_pairs, rows):
    shown = []

    def of_critic(self, attacked, clean):
        shown.append((attacked, clean))
        return self.critic(self.generator.raw(attacked)).mean()

    monkeypatch.setattr(Adversaries, "of_critic", of_critic)
    data = separable(32, SHAPE)
    built(store, data=data, clean_pairs=clean_pairs, epochs=2)
    x = data.train.pixels()
    attacked = InnerAttack.named("fgsm", "linf", 0.3, by="test").on(freeze(conv(2, SHAPE)), data.train, 0)
    for epoch in (shown[: rows // 16], shown[rows // 16 :]):
        seen = [(a, c) for batch in epoch for a, c in zip(*batch, strict=True)]
        assert len(seen) == rows
        numbers = [next(i for i in range(32) if torch.equal(x[i], c)) for _, c in seen]
        assert sorted(numbers) == sorted(list(range(32)) * (rows // 32)) and numbers != sorted(numbers)
        partners = [torch.equal(a, attacked[i]) for i, (a, _) in zip(numbers, seen, strict=True)]
        clean = [torch.equal(a, c) for a, c in seen]
        assert sum(partners) == 32 and sum(clean) == rows - 32


def test_the_generator_takes_its_steps_and_the_critic_one(store, monkeypatch):
    turns = []

    class Recorded(Player):
        def lower(self, loss):
            turns.append(self.name.split()[0])
            super().lower(loss)

    monkeypatch.setattr(ape_gan, "Player", Recorded)
    built(store, generator_steps=3)
    assert turns == ["discriminator", "generator", "generator", "generator"] * 2


def test_a_loss_that_is_no_number_ends_the_training(store, monkeypatch):
    monkeypatch.setattr(
        Adversaries, "of_critic", lambda self, a, c: torch.tensor(math.nan, requires_grad=True)
    )
    with pytest.raises(RuntimeError, match="the loss of the discriminator of ape-gan became nan"):
        built(store)


def test_batch_norm_looks_at_one_image_or_at_the_batch(store):
    x = images(6, SHAPE)
    alone, batch = built(store), built(store, batch_norm="batch")
    assert alone.training_keys() == batch.training_keys()  # decided at test time: nothing is trained anew
    assert torch.allclose(alone.purify(x, seeds(6))[:2], alone.purify(x[:2], seeds(2)), atol=1e-6)
    assert not torch.allclose(batch.purify(x, seeds(6))[:2], batch.purify(x[:2], seeds(2)), atol=1e-4)


def test_batch_statistics_are_those_of_training():
    g = purifier()
    x = images(5, SHAPE)
    in_training = g.train()(x).detach()
    assert torch.allclose(with_batch_statistics(g).eval()(x), in_training, atol=1e-6)


@pytest.mark.parametrize("change", [
    {"attack": "rand-fgsm"}, {"attack": "pgd:steps=2"}, {"norm": "l2"}, {"eps": 0.1}, {"clean_pairs": True},
    {"loss": "icassp"}, {"loss": "author"}, {"architecture": "port"}, {"width": 3}, {"epochs": 2}, {"batch_size": 8},
    {"lr": 0.01}, {"generator_steps": 1}, {"key": "another classifier"}, {"seed": 1},
])  # fmt: skip
def test_whatever_decides_the_training_is_in_the_recipe(store, change):
    assert built(store, **change).training_keys() != built(store).training_keys()


@pytest.mark.parametrize(("bad", "told"), [
    ({"epochs": 0}, "epochs"), ({"width": 0}, "width"), ({"lr": 0.0}, "lr > 0"), ({"generator_steps": 0}, "generator"),
    ({"batch_size": 0}, "batch_size"), ({"eps": -1.0}, "eps"), ({"eps": 30.0}, "eps"), ({"attack": "fgms"}, "unknown attack"),
    ({"attack": "advgan"}, "must itself be trained"), ({"attack": "cw", "norm": "l1"}, "norm=l1"),
    ({"attack": "pgd:stesp=3"}, "parameter of attack"),
])  # fmt: skip
def test_impossible_values_are_refused(bad, told):
    with pytest.raises(UsageError, match=told):
        built(**bad)


@pytest.mark.parametrize(("architecture", "shape", "told"), [
    ("author", (1, 6, 8), "multiples of 4, at least 4, not 6x8"), ("port", (1, 12, 16), "at least 16, not 12x16"),
])  # fmt: skip
def test_sides_that_the_networks_cannot_halve_are_refused(store, architecture, shape, told):
    with pytest.raises(UsageError, match=told):
        built(store, base=freeze(conv(2, shape)), data=separable(8, shape), architecture=architecture)


def test_a_nested_spec_names_the_attack():
    nested = built(attack=Spec.parse("pgd:steps=7"))
    assert nested.inner.recipe["attack"].startswith("pgd:") and "steps=7" in nested.inner.recipe["attack"]


@pytest.mark.parametrize("architecture", BOTH)
@pytest.mark.parametrize(
    "loss", ["arxiv", "author"]
)  # icassp has a seventh of the weight on pixels: see figures
def test_it_undoes_the_attack_that_it_was_trained_on(store, loss, architecture):
    shape, eps = (1, 16, 16), 0.3
    data, base = separable(64, shape), freeze(conv(2, shape))
    options = {"loss": loss, "architecture": architecture, "epochs": 20, "width": 8, "lr": 2e-3, "eps": eps}
    defense = built(store, base=base, data=data, **options)
    x, y = data.test.pixels(), data.test.labels
    attacked = fgsm(View.on(Bare(base), seeds(32)), x, Goal.untargeted(y), Budget("linf", eps), seeds(32))
    with torch.no_grad():
        before = (attacked - x).square().mean()
        after = (defense.purify(attacked, seeds(32)) - x).square().mean()
    assert after < 0.4 * before


def test_the_white_box_gradient_is_that_of_the_whole():
    # Against finite differences, in float64, through generator and classifier.
    defense = built(width=2)
    defense.purifier = purifier(width=2)
    freeze(defense.double())
    x, y = images(1, SHAPE).double() * 0.8 + 0.1, torch.tensor([0])
    _, grad, _ = View.on(Defended(defense), seeds(1)).value_and_grad(Goal.untargeted(y).loss, x)
    for row, column in ((3, 4), (14, 14), (27, 0)):
        step = torch.zeros_like(x)
        step[0, 0, row, column] = 1e-5
        with torch.no_grad():
            high, low = (Goal.untargeted(y).loss(defense(x + s, seeds(1))) for s in (step, -step))
        assert grad[0, 0, row, column].item() == pytest.approx((high - low).item() / 2e-5, rel=1e-3, abs=1e-9)

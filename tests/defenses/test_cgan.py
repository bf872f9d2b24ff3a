"""The conditional-GAN purifier: networks, pairs, both losses, and images that it in fact cleans."""

from __future__ import annotations

import pytest
import torch
from planted import conv, images, seeds, separable
from rbg_attacks.fgsm import fgsm
from rbg_defenses import _pix2pix
from rbg_defenses._pairs import Pairs
from rbg_defenses._pix2pix import PatchDiscriminator, UNet, train_unet
from rbg_defenses._turns import Player, take_turns
from rbg_defenses.cgan import ConditionalGAN
from torch import nn
from torch.nn import functional as F

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.models.schedule import Schedule
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.training.loop import Diverged, cross_entropy, optimise
from robustbench_gan.training.networks import freeze, fresh

SHAPE = (1, 8, 8)


def unfitted(base=None, **more):
    given = {"epochs": 1, "batch_size": 16, "width": 2, **more}
    defense = ConditionalGAN(freeze(conv(2, SHAPE)) if base is None else base, **given)
    defense.base_key = "base"
    return defense


def fitted(store, base=None, data=None, **more):
    defense = unfitted(base, **more)
    defense.fit(separable(shape=SHAPE) if data is None else data, 0, store)
    return defense


# networks


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 8, 8), (1, 9, 13), (3, 30, 64), (1, 64, 64)])
def test_the_u_net_keeps_shape_and_range(shape):
    x, network = images(3, shape), UNet(shape, 2).eval()
    made = network(x)
    assert made.shape == x.shape and made.min() >= 0 and made.max() <= 1
    assert torch.allclose(network(x[1:2]), made[1:2], atol=1e-6)


def test_thirty_two_pixels_become_one_in_five_levels():
    network, sizes = UNet((3, 28, 28), 4), []
    for layer in network.down:
        layer.register_forward_hook(lambda m, i, out: sizes.append(tuple(out.shape[1:])))
    network.train()(images(2, (3, 28, 28)))
    assert sizes == [(4, 16, 16), (8, 8, 8), (16, 4, 4), (32, 2, 2), (32, 1, 1)]
    normed = [[isinstance(layer, nn.Sequential) for layer in side] for side in (network.down, network.up)]
    assert normed == [[False, True, True, True, False], [False, True, True, True, True]]


def test_every_level_reaches_the_answer_by_its_own_way():
    x = images(2, (1, 32, 32))
    for cut in range(5):
        network = fresh(lambda: UNet((1, 32, 32), 2), 0).eval()
        before = network(x)
        weight = network.up[cut][0].weight if cut else network.up[0].weight
        skipped = len(weight) // 2 if cut < 4 else 0  # the first half of the inputs is the skip
        with torch.no_grad():
            weight[:skipped].zero_() if cut < 4 else weight.zero_()
        assert not torch.allclose(network(x), before), cut


def test_a_patch_sees_sixteen_pixels_of_both_images():
    judge = fresh(lambda: PatchDiscriminator(1, 4), 0).eval()
    given, candidate = (images(1, (1, 32, 32), seed=s).requires_grad_() for s in (0, 1))
    logits = judge(given, candidate)
    assert logits.shape == (1, 1, 14, 14)
    for slope in torch.autograd.grad(logits[0, 0, 7, 7], (given, candidate)):
        seen = slope[0, 0].nonzero()
        assert (seen.amax(dim=0) - seen.amin(dim=0) + 1).tolist() == [16, 16]


# training


def test_a_player_moves_its_own_weights_alone():
    mine, other = nn.Linear(2, 2), nn.Linear(2, 2)
    before = [p.clone() for network in (mine, other) for p in network.parameters()]
    Player("test", 0.1, mine).lower(other(mine(torch.ones(1, 2))).sum())
    after = [p for network in (mine, other) for p in network.parameters()]
    moved = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert moved == [True, True, False, False] and all(p.grad is None for p in other.parameters())
    with pytest.raises(Diverged, match="test became nan"):
        Player("test", 0.1, mine).lower(mine(torch.full((1, 2), torch.nan)).sum())


def test_turns_visit_every_image_once_an_epoch_in_the_seed_s_order():
    data = separable(20, SHAPE).train

    def order(seed):
        seen = []
        take_turns(
            lambda step, x, y: seen.append((step, x)), (), data, Schedule(2, 8, 1.0), seed=seed, description="",
        )  # fmt: skip
        assert [step for step, _ in seen] == list(range(6)) and [len(x) for _, x in seen] == [8, 8, 4] * 2
        return torch.cat([x for _, x in seen])

    first, again, other = order(0), order(0), order(5)
    assert torch.equal(first, again) and not torch.equal(first, other)
    whole = data.pixels().flatten(1).sum(dim=1).sort().values
    for epoch in first.split(20):
        assert torch.equal(epoch.flatten(1).sum(dim=1).sort().values, whole)


def test_both_losses_are_those_of_pix2pix(monkeypatch):
    """The discriminator's is what it was before its step, the generator's what the moved discriminator says."""
    data, lowered = separable(4, SHAPE).train, []
    given = images(4, SHAPE)

    class Recorded(Player):
        def lower(self, loss):
            lowered.append((self.name, loss.detach()))

    monkeypatch.setattr(_pix2pix, "Player", Recorded)
    generator = fresh(lambda: UNet(SHAPE, 2), 0)
    twin = fresh(lambda: UNet(SHAPE, 2), 0).train()
    judge = fresh(lambda: PatchDiscriminator(1, 2), 0 + 1).train()
    train_unet(generator, Pairs(data, given), Schedule(1, 4, 1e-3), 2, 7.0, 0)
    made, clean = twin(given), data.pixels()
    real, fake = judge(given, clean), judge(given, made)
    on_real = -F.logsigmoid(real).mean()
    expected = {
        "discriminator": (on_real - F.logsigmoid(-fake).mean()) / 2,
        "generator": -F.logsigmoid(fake).mean() + 7 * ((2 * made - 1) - (2 * clean - 1)).abs().mean(),
    }
    assert [name for name, _ in lowered] == ["discriminator", "generator"]
    for name, loss in lowered:
        assert torch.allclose(loss, expected[name], atol=1e-5), name


def trained_base(data):
    model = fresh(lambda: conv(2, SHAPE, seed=3), 0)
    optimise(model, data.train, cross_entropy(model), Schedule(20, 16, 0.01), seed=0, description="")
    return freeze(model)


def test_it_gives_attacked_images_back_clean(store):
    data = separable(shape=SHAPE)
    model = trained_base(data)
    defense = fitted(store, model, data, epochs=25, width=8, lr=4e-3, eps=0.35, clean=0.5)
    x, y = data.test.pixels(), data.test.labels
    view = View.on(Bare(model), seeds(len(x)))
    attacked = fgsm(view, x, Goal.untargeted(y), Budget("linf", 0.35), seeds(len(x)))

    def right(images, logits):
        return (logits(images).argmax(dim=1) == y).double().mean().item()

    def defended(images):
        return defense(images, seeds(len(x))).logits

    assert right(attacked, model) <= 0.5 and right(attacked, defended) > 0.95
    assert right(x, defended) > 0.95
    cleaned = defense.purify(attacked, seeds(len(x)))
    assert (cleaned - x).abs().mean() < (attacked - x).abs().mean() / 2
    (artifact,) = store.used.values()
    assert artifact.info["validation_accuracy_attacked"] > 0.95
    assert artifact.info["validation_accuracy_attacked_undefended"] <= 0.5


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.5, 16, 48), (1.0, 64, 64)])
def test_a_share_of_the_pairs_is_clean_and_the_rest_is_inside_eps(share, low, high):
    data, defense = separable(shape=SHAPE), unfitted(clean=share, eps=0.1)
    x = data.train.pixels()
    given = defense._given(defense.base, data.train, 0)
    same = (given == x).flatten(1).all(dim=1)
    assert low <= same.sum() <= high and Budget("linf", 0.1).contains(given - x).all()
    assert given.min() >= 0 and given.max() <= 1 and given.dtype == torch.float32


def test_pairs_go_together():
    data, given = separable(shape=SHAPE).train, images(64, SHAPE)
    pairs, index = Pairs(data, given), torch.tensor([5, 0, 63])
    first, second = pairs.pixels(index).chunk(2, dim=1)
    assert torch.equal(first, given[index]) and torch.equal(second, data.pixels(index))
    assert len(pairs) == 64 and torch.equal(pairs.labels, data.labels)


# the defense


def test_the_answer_of_a_sample_does_not_depend_on_the_others(store):
    defense, x = fitted(store), images(6, SHAPE)
    whole = defense(x, seeds(6)).logits
    changed = x.clone()
    changed[1:] = 1 - changed[1:]
    assert torch.allclose(defense(changed, seeds(6)).logits[0], whole[0], atol=1e-6)
    assert not defense.parts()["purifier"].training


def test_it_answers_with_the_classifier_on_the_cleaned_image(store):
    defense, x = fitted(store), images(5, SHAPE)
    assert torch.equal(defense(x, seeds(5)).logits, defense.base(defense.parts()["purifier"](x)))
    assert list(defense.training_keys()) == ["purifier"] == list(defense.parts())


def test_the_full_gradient_is_that_of_finite_differences(store):
    defense, x = fitted(store).double(), images(1, SHAPE).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: defense(x, seeds(1)).logits, (x,), atol=1e-4, fast_mode=True)


@pytest.mark.parametrize(
    "change",
    [{"attack": "noise"}, {"attack": Spec.parse("pgd:steps=2")}, {"norm": "l2"}, {"eps": 0.1}, {"clean": 0.5},
     {"width": 3}, {"l1": 10.0}, {"epochs": 2}, {"batch_size": 8}, {"lr": 0.01}],
)  # fmt: skip
def test_every_parameter_is_in_the_recipe(store, change):
    assert fitted(store, **change).training_keys() != fitted(store).training_keys()


def test_the_classifier_is_in_the_recipe(store):
    other = unfitted()
    other.base_key = "another"
    other.fit(separable(shape=SHAPE), 0, store)
    assert other.training_keys() != fitted(store).training_keys()


@pytest.mark.parametrize(
    "bad",
    [{"clean": -0.1}, {"clean": 1.1}, {"width": 0}, {"l1": -1.0}, {"epochs": 0}, {"batch_size": 1}, {"lr": 0.0},
     {"eps": -1.0}, {"norm": "l7"}, {"attack": "fgms"}, {"attack": "advgan"}, {"attack": "pgd:stesp=3"}],
)  # fmt: skip
def test_impossible_values_are_refused(bad):
    with pytest.raises(UsageError):
        unfitted(**bad)


def test_images_too_small_to_judge_are_refused(store):
    with pytest.raises(UsageError, match="8 pixels a side or more, not 4x4"):
        fitted(store, freeze(conv(2)), separable())

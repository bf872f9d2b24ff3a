"""Collaborative Defense-GAN: the authors' networks and losses, its examples, and images that it in fact cleans."""

from __future__ import annotations

import pytest
import torch
from planted import conv, images, seeds, separable
from rbg_attacks.fgsm import fgsm
from rbg_defenses import _collaborative
from rbg_defenses._collaborative import (
    Discriminator,
    Game,
    LogitGoal,
    Translator,
    attacked_by,
    train_cleaner,
)
from rbg_defenses._pairs import InnerAttack
from rbg_defenses._turns import Player
from rbg_defenses.collaborative_defense_gan import CollaborativeDefenseGAN
from torch.nn import functional as F

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.data.dataset import Dataset, Split
from robustbench_gan.models.schedule import Schedule
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.training.loop import cross_entropy, optimise
from robustbench_gan.training.networks import freeze, fresh

SHAPE = (1, 16, 16)


def unfitted(base=None, **more):
    given = {"epochs": 1, "batch_size": 16, **more}
    defense = CollaborativeDefenseGAN(freeze(conv(2, SHAPE)) if base is None else base, **given)
    defense.base_key = "base"
    return defense


def fitted(store, base=None, data=None, **more):
    defense = unfitted(base, **more)
    defense.fit(separable(32, SHAPE) if data is None else data, 0, store)
    return defense


# networks


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 16, 16), (3, 17, 30), (1, 45, 33)])
@pytest.mark.parametrize("last", ["relu", "tanh"])
def test_a_translator_keeps_the_shape_and_looks_at_one_image_at_a_time(shape, last):
    x, network = images(3, shape), fresh(lambda: Translator(shape[0], last), 0)
    made = network(x)
    assert made.shape == x.shape and made.min() >= (0 if last == "relu" else -1)
    assert torch.allclose(network(x[1:2]), made[1:2], atol=1e-5)


def test_the_translator_has_the_authors_layers_and_maps():
    network, sizes = Translator(1, "relu"), []
    for layer in [*network.down, *network.up, network.output]:
        layer.register_forward_hook(lambda m, i, out: sizes.append(tuple(out.shape[1:])))
    network(images(1, (1, 28, 28)))
    assert sizes == [
        (8, 28, 28),
        (16, 14, 14),
        (32, 7, 7),
        (32, 7, 7),
        (16, 14, 14),
        (8, 28, 28),
        (1, 28, 28),
    ]
    assert [layer.in_channels for layer in network.up] == [32, 64, 32] and network.output.in_channels == 16


def test_the_row_of_zeros_stands_in_front():
    """7 becomes 3 by pooling, 6 by doubling: what the first layer up sees has zeros above and left."""
    network, seen = Translator(1, "relu"), []
    network.up[0].register_forward_hook(lambda m, i, out: seen.append(i[0]))
    network(images(1, (1, 28, 28)))
    (given,) = seen
    assert not given[..., 0, :].any() and not given[..., 0].any() and given[..., 1:, 1:].any(dim=1).all()


@pytest.mark.parametrize(
    ("shape", "widths"),
    [((1, 28, 28), [4, 8, 16, 32]), ((3, 32, 32), [8, 16, 32, 64, 128]), ((3, 16, 16), [4, 8, 16, 32])],
)
def test_the_discriminator_is_the_authors_for_the_size(shape, widths):
    judge = Discriminator(shape)
    assert [layer.out_channels for layer in judge.layers] == widths
    judged = judge(images(2, shape))
    assert judged.shape == (2, 1, 1, 1) and judged.min() > 0 and judged.max() < 1


# losses


def test_the_examples_are_crafted_by_the_true_class_s_logit():
    logits, y = torch.tensor([[1.0, 5.0], [2.0, -3.0]]), torch.tensor([0, 1])
    goal, out = LogitGoal.untargeted(y), Output.of(logits)
    assert goal.loss(out).tolist() == [-1.0, 3.0]
    assert goal.rows(torch.tensor([1])).loss(Output.of(logits[1:])).tolist() == [3.0]
    assert torch.equal(goal.margin(out), Goal.untargeted(y).margin(out))


@pytest.mark.parametrize("strength", [0.0, 0.2, 1.0])
def test_an_example_is_one_step_along_the_sign_of_that_logit_s_slope(strength):
    model, x, y = freeze(conv(2, SHAPE)), images(4, SHAPE), torch.tensor([0, 1, 0, 1])
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(leaf).gather(1, y[:, None]).sum(), leaf)
    inner = InnerAttack.named("fgsm", "linf", 1.0, by="test")
    made = attacked_by(inner, model, x, LogitGoal.untargeted(y), strength, seeds(4))
    assert torch.allclose(made, (x - strength * slope.sign()).clamp(0, 1))


def game():
    model = freeze(conv(2, SHAPE))
    cleaner = fresh(lambda: Translator(1, "relu"), 0)
    return Game(model, cleaner, SHAPE, 0)


def test_the_translators_lower_the_sum_of_eight_losses():
    g, x, y, attacked = game(), images(3, SHAPE), torch.tensor([0, 1, 1]), images(3, SHAPE, seed=9)

    def there(image):
        return (image + 0.4 * g.attacker(image)).clamp(0, 1)

    back = g.cleaner
    expected = [
        1 - g.on_clean(back(attacked)).mean(), 1 - g.on_attacked(there(x)).mean(),
        F.mse_loss(back(attacked), x), 2 * F.mse_loss(there(x), attacked),
        F.mse_loss(back(there(x)), x), 2 * F.mse_loss(there(back(attacked)), attacked),
        -g.model(back(attacked)).log_softmax(dim=1)[torch.arange(3), y].mean(), F.mse_loss(back(x), x),
    ]  # fmt: skip
    assert torch.allclose(g.translators_loss(x, y, attacked, 0.4), sum(expected), atol=1e-5)


def test_each_discriminator_lowers_half_its_two_errors():
    g, x, attacked = game(), images(3, SHAPE), images(3, SHAPE, seed=9)
    on_clean = (1 - g.on_clean(x).mean() + g.on_clean(g.cleaner(attacked)).mean()) / 2
    on_attacked = (1 - g.on_attacked(attacked).mean() + g.on_attacked(g.attack(x, 0.4)).mean()) / 2
    loss = g.discriminators_loss(x, attacked, 0.4)
    assert torch.allclose(loss, on_clean + on_attacked, atol=1e-6)
    slopes = torch.autograd.grad(loss, list(g.cleaner.parameters()), allow_unused=True)
    assert all(slope is None for slope in slopes)


def test_the_strength_is_drawn_anew_for_every_batch_and_the_translators_move_first(monkeypatch):
    strengths, moves = [], []
    real = _collaborative.attacked_by

    def crafted(inner, model, x, goal, strength, seeds):
        strengths.append(strength)
        return real(inner, model, x, goal, strength, seeds)

    class Recorded(Player):
        def lower(self, loss):
            moves.append(self.name)

    monkeypatch.setattr(_collaborative, "attacked_by", crafted)
    monkeypatch.setattr(_collaborative, "Player", Recorded)
    inner = InnerAttack.named("fgsm", "linf", 0.5, by="test")
    cleaner, data = Translator(1, "relu"), separable(40, SHAPE)
    model = freeze(conv(2, SHAPE))
    train_cleaner(cleaner, model, data, inner, LogitGoal.untargeted, Schedule(8, 8, 1e-3), 0)
    assert len(set(strengths)) == 40 and 0 <= min(strengths) < 0.1 and 0.4 < max(strengths) <= 0.5
    assert 0.18 < sum(strengths) / 40 < 0.32 and moves == ["translators", "discriminators"] * 40


# the defense


def striped(count=64):
    """Classes that differ in the direction of their stripes: instance norm hides a level, not a direction."""
    generator = torch.Generator().manual_seed(5)
    stripes = torch.arange(16) // 2 % 2 * 140 + 50

    def split(n):
        labels = torch.arange(n) % 2
        across = (labels == 0).reshape(-1, 1, 1, 1)
        level = torch.where(across, stripes.reshape(1, 1, 16, 1), stripes.reshape(1, 1, 1, 16))
        return Split((level + torch.randint(0, 20, (n, *SHAPE), generator=generator)).to(torch.uint8), labels)

    return Dataset("striped", ("across", "down"), split(count), split(32), split(32))


def test_it_gives_attacked_images_back_clean(store):
    data = striped()
    model = fresh(lambda: conv(2, SHAPE, seed=3), 0)
    optimise(model, data.train, cross_entropy(model), Schedule(10, 16, 0.01), seed=0, description="")
    defense = fitted(store, freeze(model), data, epochs=12, batch_size=8, lr=2e-3, eps=0.6)
    x, y = data.test.pixels(), data.test.labels
    view = View.on(Bare(model), seeds(len(x)))
    attacked = fgsm(view, x, Goal.untargeted(y), Budget("linf", 0.35), seeds(len(x)))

    def right(logits):
        return (logits.argmax(dim=1) == y).double().mean().item()

    assert right(model(attacked)) < 0.1
    assert (
        right(defense(attacked, seeds(len(x))).logits) > 0.95
        and right(defense(x, seeds(len(x))).logits) > 0.95
    )


def test_it_answers_with_the_classifier_on_the_cleaned_image_in_the_box(store):
    defense, x = fitted(store), images(5, SHAPE)
    with torch.no_grad():
        defense.purifier.output.bias.add_(0.9)  # so that some values do leave the box
    made = defense.parts()["purifier"](x)
    assert made.max() > 1 and list(defense.training_keys()) == ["purifier"] == list(defense.parts())
    assert torch.equal(defense(x, seeds(5)).logits, defense.base(made.clamp(0, 1)))


def test_the_full_gradient_is_that_of_finite_differences(store):
    defense, x = fitted(store).double(), images(1, SHAPE).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: defense(x, seeds(1)).logits, (x,), eps=1e-7, atol=1e-4, fast_mode=True
    )


def test_training_leaves_the_classifier_without_gradients(store):
    base = conv(2, SHAPE)
    fitted(store, base)
    assert all(p.grad is None and p.requires_grad for p in base.parameters())


@pytest.mark.parametrize(
    "change",
    [{"attack": "noise"}, {"attack": Spec.parse("pgd:steps=2")}, {"loss": "cross-entropy"}, {"eps": 0.3},
     {"epochs": 2}, {"batch_size": 8}, {"lr": 0.01}],
)  # fmt: skip
def test_every_parameter_is_in_the_recipe(store, change):
    assert fitted(store, **change).training_keys() != fitted(store).training_keys()


def test_the_classifier_is_in_the_recipe(store):
    other = unfitted()
    other.base_key = "another"
    other.fit(separable(32, SHAPE), 0, store)
    assert other.training_keys() != fitted(store).training_keys()


@pytest.mark.parametrize(
    "bad",
    [{"epochs": 0}, {"batch_size": 1}, {"lr": 0.0}, {"eps": -0.1}, {"eps": 1.5}, {"attack": "fgms"},
     {"attack": "advgan"}, {"attack": "pgd:stesp=3"}],
)  # fmt: skip
def test_impossible_values_are_refused(bad):
    with pytest.raises(UsageError):
        unfitted(**bad)


def test_images_too_small_for_the_discriminator_are_refused(store):
    shape = (1, 12, 16)
    with pytest.raises(UsageError, match="16 pixels a side or more, not 12x16"):
        fitted(store, freeze(conv(2, shape)), separable(shape=shape))

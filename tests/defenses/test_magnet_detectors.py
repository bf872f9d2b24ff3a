"""MagNet's detectors: their marks, thresholds from validation images alone, and gradients for an adaptive attacker."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from planted import conv, images, seeds, separable
from rbg_defenses.magnet import MagNet, jensen_shannon, threshold
from scipy.spatial import distance
from torch import nn

from robustbench_gan.api.run_attack import run_attack
from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.systems import Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.data.dataset import Split
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.training.networks import freeze
from robustbench_gan.training.store import Store

NAMES = {
    ("mnist", "off"): (),
    ("mnist", "reconstruction"): ("l2", "l1"),
    ("mnist", "divergence"): ("jsd-10", "jsd-40"),
    ("mnist", "all"): ("l2", "l1", "jsd-10", "jsd-40"),
    ("cifar10", "all"): ("l1", "jsd-10", "jsd-40"),
}


def noisy(count=200):
    """Data whose validation images all differ, so that no two marks are the same."""

    def split(n, seed):
        generator = torch.Generator().manual_seed(seed)
        return Split(torch.randint(0, 256, (n, 1, 4, 4), dtype=torch.uint8, generator=generator), labels[:n])

    labels = torch.arange(count) % 2
    return replace(separable(), train=split(32, 1), validation=split(count, 2), test=split(count, 3))


def fitted(store, data=None, *, base=None, key="classifier", **more):
    defense = MagNet(
        freeze(base or conv(2)), **{"epochs": 1, "batch_size": 16, "lr": 0.02, "detectors": "all", **more}
    )
    defense.base_key = key
    defense.fit(data or noisy(), 0, store)
    return freeze(defense)


def marks(defense, x):
    """The four marks as the paper defines them, from the autoencoders alone."""
    first, second = (defense.autoencoders[name][0](x) for name in ("reformer", "detector"))
    here, there = (defense.base(image).double() for image in (x, first))
    columns = [(x - first).square().mean(dim=(1, 2, 3)), (x - second).abs().mean(dim=(1, 2, 3))]
    for temperature in (10, 40):
        p, q = ((z / temperature).softmax(dim=1).numpy() for z in (here, there))
        columns.append(torch.from_numpy(distance.jensenshannon(p, q, axis=1) ** 2))
    return torch.stack([c.double() for c in columns], dim=1)


@pytest.mark.parametrize(("networks", "asked"), NAMES)
def test_each_choice_has_its_detectors(store, networks, asked):
    defense = fitted(store, networks=networks, detectors=asked)
    scores = defense(images(3), seeds(3)).scores
    assert defense.detectors == NAMES[networks, asked]
    assert scores.shape == (3, len(defense.detectors)) and scores.dtype == torch.float32


def test_scores_are_the_marks_over_their_thresholds(store):
    defense, x = fitted(store, fpr=0.05), images(20, seed=4)
    scores = defense.scores(x, defense.purify(x, seeds(20)), seeds(20))
    expected = marks(defense, x) / defense.thresholds.double() - 1
    assert torch.allclose(scores.double(), expected, rtol=1e-3, atol=1e-4)
    assert (scores > 0).any() and (scores < 0).any()


@pytest.mark.parametrize(("rate", "rejected"), [(0.0, 0), (0.004, 0), (0.005, 1), (0.05, 10), (0.29, 58)])
def test_each_detector_rejects_its_share_of_the_validation_images(store, rate, rejected):
    data = noisy(200)
    defense = fitted(store, data, fpr=rate, divergence_fpr=0.1)
    x = data.validation.pixels()
    scores = defense(x, seeds(200)).scores
    # A mark may move in its last bits with the batch: what lies within rounding of the threshold may fall either way.
    fired, close = (scores > 1e-4).sum(dim=0), (scores > -1e-4).sum(dim=0)
    for at, expected in enumerate((rejected, rejected, 20, 20)):
        assert fired[at] <= expected and close[at] >= expected


def test_thresholds_know_validation_images_only(store, tmp_path):
    data = noisy()
    defense = fitted(store, data)
    bright = Split(torch.full_like(data.test.images, 255), data.test.labels)
    other_test = fitted(Store(tmp_path / "b"), replace(data, test=bright))
    assert torch.equal(other_test.thresholds, defense.thresholds)
    other_validation = fitted(Store(tmp_path / "c"), replace(data, validation=bright))
    assert not torch.equal(other_validation.thresholds, defense.thresholds)


def test_a_threshold_is_the_mark_that_the_share_exceeds():
    given = torch.tensor([[9.0, 7.0, 5.0, 3.0, 0.0], [8.0, 6.0, 4.0, 2.0, 0.0]])
    for rate, expected in ((0.0, [9, 8]), (0.19, [9, 8]), (0.2, [7, 6]), (0.6, [3, 2])):
        assert threshold(given, rate).tolist() == expected
    assert (threshold(given, 0.8) > 0).all()  # a division by it gives a number


def test_jensen_shannon_of_known_distributions():
    same = torch.tensor([[1.0, -2.0, 3.0]])
    assert jensen_shannon(same, same, 10.0).item() == 0
    apart = torch.tensor([[2000.0, 0.0]])
    assert jensen_shannon(apart, -apart, 10.0).item() == pytest.approx(math.log(2))
    a, b = images(6, (5,)) * 30, images(6, (5,), seed=1) * 30
    p, q = ((z / 40).double().softmax(dim=1).numpy() for z in (a, b))
    expected = torch.from_numpy(distance.jensenshannon(p, q, axis=1) ** 2).float()
    assert torch.allclose(jensen_shannon(a, b, 40.0), expected, rtol=1e-5)


def test_a_rate_does_not_train_anew(store):
    one, two = fitted(store, fpr=0.01), fitted(store, fpr=0.1, divergence_fpr=0.2)
    assert one.training_keys() == two.training_keys() and len(list(store)) == 3
    assert (two.thresholds < one.thresholds).all()


def test_detectors_leave_the_reformer_as_it_is(store):
    plain, guarded = fitted(store, detectors="off"), fitted(store)
    assert list(plain.training_keys()) == ["reformer"]
    assert guarded.training_keys()["reformer"] == plain.training_keys()["reformer"]
    assert list(guarded.training_keys()) == ["reformer", "detector", "marks"]
    assert torch.equal(guarded(images(4), seeds(4)).logits, plain(images(4), seeds(4)).logits)


@pytest.mark.parametrize(("asked", "same"), [("reconstruction", True), ("divergence", False)])
def test_marks_depend_on_the_classifier_where_it_is_asked(store, asked, same):
    one = fitted(store, detectors=asked, key="one")
    two = fitted(store, detectors=asked, key="two", base=conv(2, seed=9))
    assert (one.training_keys()["marks"] == two.training_keys()["marks"]) == same
    assert torch.equal(one.thresholds, two.thresholds) == same


def test_each_of_a_collection_has_its_own_threshold(store):
    defense, x = fitted(store, collection=2, fpr=0.05), images(30)
    assert defense.thresholds.shape == (2, 4) and not torch.equal(*defense.thresholds)
    scores = defense(x, seeds(30)).scores
    found = []
    for member in (0, 1):
        first, second = (defense.autoencoders[name][member](x) for name in ("reformer", "detector"))
        own = torch.stack(
            [(x - first).square().mean(dim=(1, 2, 3)), (x - second).abs().mean(dim=(1, 2, 3))], dim=1
        )
        found.append(
            torch.isclose(scores[:, :2], own / defense.thresholds[member, :2] - 1, atol=1e-4).all(dim=1)
        )
    assert (found[0] | found[1]).all() and found[0].any() and found[1].any()


@pytest.mark.parametrize("gradient", ["full", "bpda"])
@pytest.mark.parametrize("collection", [1, 2])
def test_the_scores_gradient_is_that_of_finite_differences(store, gradient, collection):
    """Also under BPDA, whose stand-in for the reformer would tell the detectors that x - AE(x) never changes."""
    defense, x = fitted(store, collection=collection).double(), images(2, seed=7).double()
    s, direction = seeds(2), images(2, seed=8).double() - 0.5
    view = View.on(Defended(defense, gradient), s, fixed=True, whole_batches=True)
    step = 1e-4
    for column in range(4):
        # View answers in float32; the difference is taken on the defense itself.
        _, grad, _ = view.value_and_grad(lambda out, at=column: out.scores[:, at], x)
        ahead, behind = (defense(x + sign * step * direction, s).scores[:, column] for sign in (1, -1))
        slope = (ahead - behind) / (2 * step)
        assert torch.allclose((grad * direction).flatten(1).sum(dim=1), slope, rtol=2e-2, atol=2e-3), column
        assert grad.abs().max() > 0


class LeftHalf(nn.Module):
    """A manifold known in closed form: images whose right half is grey."""

    def forward(self, x):
        return torch.cat([x[..., :2], torch.full_like(x[..., 2:], 0.5)], dim=-1)


class Halves(nn.Module):
    """Two classes by the sum of x - 0.5, where the right half weighs ten times as much."""

    def forward(self, x):
        total = ((x - 0.5) * x.new_tensor([1.0, 1.0, 10.0, 10.0])).flatten(1).sum(dim=1)
        return torch.stack([total, -total], dim=1)


def test_an_attack_through_reformer_and_detectors_finds_what_neither_sees():
    """The classifier alone invites to the right half, which is reformed away and detected; the left half is free."""
    defense = MagNet(Halves(), detectors="all")
    defense.autoencoders.update({n: nn.ModuleList([LeftHalf()]) for n in ("reformer", "detector")})
    defense.thresholds = torch.full((1, 4), 0.02)
    defense.fitted = True  # by hand
    x = torch.cat([torch.full((6, 1, 4, 2), 0.7), torch.full((6, 1, 4, 2), 0.5)], dim=-1)
    goal = Goal.untargeted(torch.zeros(6, dtype=torch.int64))
    for attack in ("cw:preset=fast", "pgd:steps=40", "cw-bounded:steps=40"):
        eps = [math.inf] if attack.startswith("cw:") else [0.8]
        blind = run_attack(attack, defense.base.eval(), x, goal.classes, norm="l2", epsilons=eps).examples[0]
        aware = run_attack(attack, defense.eval(), x, goal.classes, norm="l2", epsilons=eps).examples[0]
        assert not goal.reached(defense(blind, seeds(6))).any(), attack
        assert goal.reached(defense(aware, seeds(6))).all(), attack


@pytest.mark.parametrize("asked", ["l1", "on"])
def test_unknown_detectors_are_refused_with_the_real_ones(asked):
    with pytest.raises(UsageError, match="reconstruction"):
        registry.resolve("defenses", Spec.parse(f"magnet:detectors={asked}"))

"""Both directions, on 500 MNIST images: what an attacker leaves who does not know the purifier, and one who does.

Recipes were chosen on validation images (docs/defense_proofs.md, which also keeps the last full log with its commit).
RBG_TEST_STORE names a directory to keep what is trained in between runs.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from real import canonical

from robustbench_gan.api.run_attack import run_attack
from robustbench_gan.nouns.outcome import Goal, correct
from robustbench_gan.nouns.seeds import judge_seeds
from robustbench_gan.nouns.statistics import interval
from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import Workshop

pytestmark = [pytest.mark.figures, pytest.mark.slow]

FIRST, COUNT = 4000, 500  # earlier test images were looked at while the defenses were written
KAPPAS = (0, 10, 20)
RADIUS = 3.0  # l2, of the adaptive attacks
SPECS = {
    "magnet": "magnet:epochs=10,lr=0.1,one_cycle=true,detectors=reconstruction",
    "ape-gan": "ape-gan:loss=author,lr=0.001,norm=l2,eps=7.0,width=32,epochs=1",
    "bit-depth": "bit-depth",
    "distillation": "distillation",
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Workshop(Store(Path(os.environ.get("RBG_TEST_STORE") or tmp_path_factory.mktemp("store"))))


@pytest.fixture(scope="module")
def confident(shop):
    """By kappa: examples that C&W makes of the bare classifier, which falls to all of them."""
    model, _ = shop.classifier("mnist", canonical("small-cnn"))
    x, y = shop.images("mnist", FIRST, COUNT)
    found = {k: run_attack(f"cw:preset=fast,kappa={k}", model, x, y, norm="l2") for k in KAPPAS}
    assert all(made.robust_accuracy[0].value == 0 for made in found.values())
    return {k: made.examples[0] for k, made in found.items()}


def defense_of(shop, name):
    return shop.defense("mnist", canonical("small-cnn"), SPECS[name])


def kept(name, attack, defense, x, y, examples, within=math.inf):
    """The share of images right unperturbed that no example within the radius won; a rejected one is none."""
    seeds = judge_seeds(0, 0, x, FIRST)
    near = (examples - x).flatten(1).norm(dim=1) <= within * (1 + 1e-6)
    with torch.no_grad():
        right, won = correct(defense(x, seeds), y), Goal.untargeted(y).reached(defense(examples, seeds))
    share = interval((right & ~(won & near)).double().numpy(), "proof")
    print(f"| {name} | {attack} | {share} | {right.double().mean():.3f} | {len(x)} |")
    return share.value


def gray_box(shop, confident, name):
    x, y = shop.images("mnist", FIRST, COUNT)
    return [
        kept(name, f"gray-box C&W l2, kappa {k}", defense_of(shop, name), x, y, examples)
        for k, examples in confident.items()
    ]


def adaptive(shop, name, attack):
    x, y = shop.images("mnist", FIRST, COUNT)
    defense = defense_of(shop, name)
    eps = math.inf if attack.startswith("cw:") else RADIUS
    made = run_attack(attack, defense, x, y, norm="l2", epsilons=[eps]).examples[0]
    return kept(name, f"white-box {attack}, l2 {RADIUS}", defense, x, y, made, RADIUS)


@pytest.mark.parametrize("name", ["magnet", "ape-gan"])
def test_it_withstands_gray_box_attacks_of_every_confidence(shop, confident, name):
    assert min(gray_box(shop, confident, name)) >= 0.90


def test_bit_depth_does_not(shop, confident):
    assert min(gray_box(shop, confident, "bit-depth")) < 0.90


@pytest.mark.parametrize(
    ("name", "attack", "most"),
    [
        ("magnet", "cw-bounded:steps=60", 0.10),
        ("ape-gan", "pgd:steps=40", 0.10),
        ("distillation", "cw:preset=fast", 0.05),
    ],
)
def test_the_adaptive_attack_breaks_it(shop, name, attack, most):
    assert adaptive(shop, name, attack) < most

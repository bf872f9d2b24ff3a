"""Every training that is killed, again and again, ends as one that never was: the same key, tensors and facts."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
import torch
from planted import conv, separable
from planted_kill import Killed, killed_after
from planted_plugins import installed, workshop  # noqa: F401 - a fixture
from rbg_defenses.adversarial_training import AdversarialTraining
from rbg_defenses.ape_gan import APEGAN
from rbg_defenses.cgan import ConditionalGAN
from rbg_defenses.collaborative_defense_gan import CollaborativeDefenseGAN
from rbg_defenses.defense_gan import DefenseGAN
from rbg_defenses.distillation import Distillation
from rbg_defenses.magnet import MagNet

from robustbench_gan.contracts.threat import ThreatModel
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.registry import resolve
from robustbench_gan.nouns.spec import Spec, as_params
from robustbench_gan.training.building import Pace
from robustbench_gan.training.networks import freeze
from robustbench_gan.training.orders import Order, names_of
from robustbench_gan.training.store import Store

SHAPE = (1, 16, 16)
STEPS = {"classifier": 3, "ensemble": 3, "papernot": 40}  # after which each is killed, where they are not 7
TINY_GAN = {
    "gan_steps": 3, "width": 2, "latent": 4, "gan_batch": 4, "critic_steps": 1, "iterations": 2, "restarts": 1,
    "rec_iterations": 2, "rec_restarts": 1, "rec_images": 16, "classifier_epochs": 2,
}  # fmt: skip
ATTACK = {"epochs": 4, "batch_size": 16}
# by name: what is trained, with which parameters, and on images of which shape
DEFENSES = {
    "magnet": (MagNet, {"epochs": 5, "batch_size": 16}, SHAPE),
    "magnet collection": (MagNet, {"epochs": 2, "batch_size": 16, "collection": 2, "one_cycle": True}, SHAPE),
    "ape-gan": (APEGAN, {**ATTACK, "width": 2}, SHAPE),
    "cgan": (ConditionalGAN, {**ATTACK, "width": 2, "clean": 0.3}, SHAPE),
    "collaborative": (CollaborativeDefenseGAN, ATTACK, SHAPE),
    "distillation": (Distillation, ATTACK, SHAPE),
    "ensemble": (AdversarialTraining, {**ATTACK, "epochs": 3, "ensemble": "quick", "mix": 1.0}, SHAPE),
    "defense-gan": (DefenseGAN, {**TINY_GAN, "classifier": "both", "detect_fpr": 0.1}, (1, 28, 28)),
}  # fmt: skip
NAMES = ("grey", "quick", "noisy")
BLACK = {"name": "black-box", "access": "gradient", "model": Spec("quick")}
PAPERNOT = ThreatModel(**BLACK, substitute="papernot", rounds=2)
STATIC = ThreatModel(**BLACK, substitute="static", rounds=3, answers="scores")
DYNAMIC = ThreatModel(**BLACK, substitute="dynamic", rounds=2)
WHITE = ThreatModel("white-box", "gradient")
ATTACKS = {
    "advgan": ("advgan:steps=6,batch_size=20", WHITE),
    "ai-gan": ("ai-gan:steps=5,batch_size=20,attacker_steps=1", WHITE),
    "dynamic": ("advgan:steps=4,batch_size=20", DYNAMIC),
    "bpda-learned": ("bpda-learned:images=40,epochs=3,batch_size=10", WHITE),
}


def make(name, store, root):
    """Train one thing, to its end, in a store."""
    if name in DEFENSES:
        kind, parameters, shape = DEFENSES[name]
        defense = kind(freeze(conv(2, shape)), **parameters)
        defense.base_key = "base"
        defense.fit(separable(32, shape), 0, store)
        return
    shop = workshop(root)
    shop.store = store
    if name == "classifier":
        shop.classifier("grey", "quick")
    elif name in ("papernot", "static"):
        shop.substitute(*NAMES, PAPERNOT if name == "papernot" else STATIC)
    else:
        text, threat = ATTACKS[name]
        kind, parameters = resolve("attacks", Spec.parse(text))
        full = str(Spec(Spec.parse(text).name, as_params(parameters)))
        shop.trained_attack(Order(names_of(*NAMES), Spec.of(full), threat, None, Budget("linf", 0.2)))


def facts(artifact):
    return {name: value for name, value in artifact.info.items() if "seconds" not in name}


ONE_OF_A_KIND = (
    "magnet",
    "distillation",
    "classifier",
    "papernot",
    "advgan",
)  # the others are like one of these


@pytest.mark.parametrize(
    "name",
    [
        name if name in ONE_OF_A_KIND else pytest.param(name, marks=pytest.mark.nightly)
        for name in (*DEFENSES, "classifier", "papernot", "static", *ATTACKS)
    ],
)
def test_what_was_killed_goes_on_and_ends_as_what_never_was(name, tmp_path, monkeypatch):
    """Killed after so few steps, it would never end if it began anew. Each second state that could be is written."""
    whole, root = Store(tmp_path / "whole"), tmp_path / "killed"
    with killed_after(-1) as steps:
        make(name, whole, tmp_path)
    asked = itertools.count(1)
    monkeypatch.setattr(Pace, "due", lambda self: next(asked) % 2 == 0)
    for kills in range(1, steps()):
        torch.manual_seed(kills)  # what draws outside decides nothing
        store = Store(root)
        with suppress(Killed), killed_after(STEPS.get(name, 7)):
            make(name, store, tmp_path)
            break
    assert kills > 1 and store.used.keys() == whole.used.keys()
    for key, artifact in whole.used.items():
        assert store.used[key].digest == artifact.digest and facts(store.used[key]) == facts(artifact), key
    assert not list((root / "unfinished").iterdir())

"""What the purifiers that are one trained network share: the code in the recipe, and what is frozen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from planted import conv, images, seeds, separable
from rbg_defenses._pairs import InnerAttack
from rbg_defenses._trained_purifier import TrainedPurifier
from rbg_defenses.ape_gan import APEGAN
from rbg_defenses.cgan import ConditionalGAN
from rbg_defenses.collaborative_defense_gan import CollaborativeDefenseGAN
from torch import nn

from robustbench_gan.models.schedule import Schedule
from robustbench_gan.training.networks import freeze
from robustbench_gan.training.store import recipe_key

SHAPE = (1, 16, 16)
OWN = {
    APEGAN: ("ape_gan", "_ape_networks"),
    ConditionalGAN: ("cgan", "_pix2pix"),
    CollaborativeDefenseGAN: ("collaborative_defense_gan", "_collaborative"),
}
SHARED = ("_trained_purifier", "_turns", "_pairs", "fgsm")
ELSEWHERE = ("magnet", "_wgan", "deepfool")


def key(kind):
    defense = kind(freeze(conv(2, SHAPE)))
    return recipe_key(kind.kind, defense.recipe(separable(8, SHAPE), 0))


@pytest.fixture
def edited(monkeypatch):
    """Makes one module of the plugins read as if a line had been added to it."""
    real = Path.read_bytes

    def edit(module):
        def read(path):
            return real(path) + (b"\nedited = 1\n" if path.stem == module else b"")

        monkeypatch.setattr(Path, "read_bytes", read)

    return edit


@pytest.mark.parametrize(
    ("kind", "module"), [(kind, module) for kind in OWN for module in (*OWN[kind], *SHARED)]
)
def test_an_edit_of_any_code_that_decides_the_training_trains_anew(edited, kind, module):
    before = key(kind)
    edited(module)
    assert key(kind) != before


@pytest.mark.parametrize(("kind", "module"), [(kind, module) for kind in OWN for module in ELSEWHERE])
def test_an_edit_elsewhere_does_not(edited, kind, module):
    before = key(kind)
    edited(module)
    assert key(kind) == before


class Dimmer(nn.Module):
    """One weight, by which every pixel is multiplied."""

    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.rand(()))

    def forward(self, x):
        return x * self.by


class Dimmed(TrainedPurifier[Dimmer]):
    """Learns to halve; keeps the classifier that it learnt against."""

    kind = "dimmed"

    def network(self, shape):
        return Dimmer()

    def choices(self):
        return {"to": 0.5}

    def learn(self, network, model, data, seed):
        self.against = model
        with torch.no_grad():
            network.by.fill_(0.5)
        return 1.25


@pytest.fixture
def dimmed():
    inner = InnerAttack.named("fgsm", "linf", 0.1, by="test")
    return Dimmed(conv(2, SHAPE).train(), inner, Schedule())


def test_it_learns_against_a_frozen_copy_and_ends_frozen_itself(store, dimmed):
    dimmed.fit(separable(8, SHAPE), 0, store)
    copied = dimmed.against
    assert copied is not dimmed.base and not copied.training
    assert not any(p.requires_grad for p in copied.parameters())
    assert dimmed.base.training and all(p.requires_grad for p in dimmed.base.parameters())
    assert not dimmed.purifier.training and not dimmed.purifier.by.requires_grad
    x = images(3, SHAPE)
    assert torch.equal(dimmed.purify(x, seeds(3)), x / 2)
    (artifact,) = store.used.values()
    assert dimmed.training_keys() == {"purifier": artifact.key} and artifact.info["seconds"] == 1.25
    assert {name for name in artifact.info if name.startswith("validation")} == {
        f"validation_accuracy{after}" for after in ("", "_attacked", "_attacked_undefended")
    }

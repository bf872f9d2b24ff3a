"""Each second library can be asked, sees the same model, and what stood in for others is gone afterwards."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest
import second
import torch
from planted import Linear, images

pytestmark = pytest.mark.parity
EPS = 0.2


@pytest.fixture
def setting():
    model, x = Linear().eval().requires_grad_(False), images(20)
    y = model(x).argmax(dim=1)
    gap = torch.nn.functional.one_hot(y, 3) - model(x).softmax(dim=1)
    return model, x, y, (x - EPS * (gap @ model.weight).sign().view_as(x)).clamp(0, 1)  # FGSM in closed form


def test_foolbox(setting):
    model, x, y, wanted = setting
    attack = second.foolbox_attacks().LinfFastGradientAttack(random_start=False)
    _, made, won = attack(second.foolbox_model(model), x, second.foolbox_criterion(y), epsilons=EPS)
    assert torch.allclose(made, wanted, atol=1e-6) and torch.equal(won, model(wanted).argmax(dim=1) != y)


def test_torchattacks(setting):
    model, x, y, wanted = setting
    assert torch.allclose(second.torchattacks_module().FGSM(model, eps=EPS)(x, y), wanted, atol=1e-6)


def test_art(setting):
    model, x, y, wanted = setting
    attack = second.art_evasion().FastGradientMethod(second.art_classifier(model, x.shape[1:], 3), eps=EPS)
    assert torch.allclose(second.art_generate(attack, x, y), wanted, atol=1e-6)


def test_adv_lib(setting):
    model, x, y, _ = setting
    made = second.adv_lib_attacks().ddn(model, x, y, steps=50)
    assert (model(made).argmax(dim=1) != y).double().mean() >= 0.9


def test_what_stood_in_is_not_seen_afterwards():
    missing = [name for name in second.STOOD_IN if importlib.util.find_spec(name) is None]
    with second._stand_ins():
        for name in missing:
            module = importlib.import_module(f"{name}.transforms")
            assert module.Anything() is not None and module.__file__ and importlib.util.find_spec(name)
    assert not [name for name in sys.modules if name.partition(".")[0] in missing]
    assert all(importlib.util.find_spec(name) is None for name in missing)

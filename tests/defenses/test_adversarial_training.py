"""Adversarial training: what the inner attack is given, the loss, and a defense that it in fact makes."""

from __future__ import annotations

import pytest
import torch
from planted import conv, seeds, separable
from rbg_attacks.fgsm import fgsm
from rbg_attacks.pgd import pgd
from rbg_defenses.adversarial_training import AdversarialTraining
from torch.nn import functional as F

from robustbench_gan.budget import Budget
from robustbench_gan.errors import UsageError
from robustbench_gan.outcome import Goal
from robustbench_gan.registry import Spec
from robustbench_gan.threat import Bare, View
from robustbench_gan.training import accuracy


def built(store=None, base=None, **more):
    defense = AdversarialTraining(
        conv(2) if base is None else base, **{"epochs": 1, "batch_size": 16, **more}
    )
    defense.base_key = "base"
    if store is not None:
        defense.fit(separable(), 0, store)
    return defense


@pytest.mark.parametrize(
    ("attack", "norm", "eps"),
    [("fgsm", "linf", 0.3), ("pgd(steps=3)", "linf", 0.1), ("rand-fgsm", "linf", 0.2), ("pgd:steps=3", "l2", 0.5),
     ("noise", "l1", 1.0)],
)  # fmt: skip
def test_what_is_trained_on_stays_inside_eps_and_the_box(store, monkeypatch, attack, norm, eps):
    seen = []
    spec = Spec.parse("adversarial-training:attack=" + attack) if "(" in attack else None
    given = dict(spec.params)["attack"] if spec else attack
    real = AdversarialTraining._craft

    def recorded(self, model, x, y, radius, seed):
        made = real(self, model, x, y, radius, seed)
        seen.append((x, made, radius, seed))
        return made

    monkeypatch.setattr(AdversarialTraining, "_craft", recorded)
    built(store, attack=given, norm=norm, eps=eps, epochs=2)
    assert len(seen) == 2 * 4 and len({seed for *_, seed in seen}) == 8
    for x, made, radius, _ in seen:
        assert radius == eps and Budget(norm, eps).contains(made - x).all() and not torch.equal(made, x)
        assert made.min() >= 0 and made.max() <= 1 and not made.requires_grad


def test_eps_grows_over_the_warm_up(store, monkeypatch):
    radii = []
    monkeypatch.setattr(
        AdversarialTraining, "_craft", lambda self, m, x, y, eps, seed: radii.append(eps) or x
    )
    built(store, eps=0.3, warmup=0.5, epochs=2)
    assert radii == pytest.approx([0.0, 0.075, 0.15, 0.225, 0.3, 0.3, 0.3, 0.3])


@pytest.mark.parametrize("labels", ["predicted", "true"])
def test_it_crafts_against_the_labels_it_says(store, monkeypatch, labels):
    seen = []

    def craft(self, model, x, y, eps, seed):
        seen.append((y, model(x).argmax(dim=1)))
        return x

    monkeypatch.setattr(AdversarialTraining, "_craft", craft)
    built(store, labels=labels, lr=1e-6)
    target, predicted = (torch.cat(column) for column in zip(*seen, strict=True))
    assert torch.equal(target, predicted) == (labels == "predicted")


@pytest.mark.parametrize("mix", [0.0, 0.25, 0.5, 1.0])
def test_the_loss_is_the_stated_mixture(store, monkeypatch, mix):
    from rbg_defenses import adversarial_training

    found = []

    def optimise(model, data, loss, schedule, *, seed, description):
        x, y = data.pixels(slice(0, 8)), data.labels[:8]
        found.append((loss(x, y), F.cross_entropy(model(x), y), F.cross_entropy(model(1 - x), y)))
        return 0.0

    monkeypatch.setattr(adversarial_training, "optimise", optimise)
    monkeypatch.setattr(AdversarialTraining, "_craft", lambda self, m, x, y, eps, seed: 1 - x)
    built(store, mix=mix)
    ((loss, clean, attacked),) = found
    assert torch.allclose(loss, (1 - mix) * clean + mix * attacked)


def test_the_inner_attack_comes_from_the_registry_with_its_parameters():
    assert built(attack="fgsm").function is fgsm
    nested = built(attack=Spec.parse("pgd:steps=7"))
    assert nested.function is pgd and nested.parameters_of_attack["steps"] == 7
    with pytest.raises(UsageError, match="unknown attack 'fgms'"):
        built(attack="fgms")
    with pytest.raises(UsageError, match="parameter of attack"):
        built(attack="pgd:stesp=3")


@pytest.mark.parametrize(
    "bad", [{"mix": 1.1}, {"mix": -0.1}, {"warmup": 1.0}, {"warmup": -0.1}, {"eps": -1.0}, {"norm": "l7"}]
)
def test_impossible_values_are_refused(bad):
    with pytest.raises(UsageError):
        built(**bad)


@pytest.mark.parametrize(
    "change",
    [{"attack": "noise"}, {"attack": "pgd:steps=2"}, {"norm": "l2"}, {"eps": 0.1}, {"mix": 1.0}, {"labels": "true"},
     {"warmup": 0.5}, {"epochs": 2}, {"batch_size": 8}, {"lr": 0.01}],
)  # fmt: skip
def test_every_parameter_is_in_the_recipe(store, change):
    assert built(store, **change).training_keys() != built(store).training_keys()


def test_the_core_is_new_and_the_base_is_kept(store):
    base = conv(2)
    before = {k: v.clone() for k, v in base.state_dict().items()}
    defense = built(store, base=base)
    assert defense.base is base and defense.core is not base
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())
    assert not torch.equal(defense.core[0].weight, base[0].weight)


def test_it_resists_what_it_was_trained_on(store):
    # Dark and bright images with one telling feature: plain training leaves a margin that FGSM crosses.
    data, eps = separable(), 0.25
    hardened = built(store, epochs=30, eps=eps, mix=1.0, lr=5e-3)
    plain = built(store, epochs=30, eps=0.0, mix=1.0, lr=5e-3)
    x, y = data.test.pixels(), data.test.labels

    def robust(defense):
        view = View.on(Bare(defense.core), seeds(len(x)))
        made = pgd(view, x, Goal.untargeted(y), Budget("linf", eps), seeds(len(x)), steps=20)
        return (defense.core(made).argmax(dim=1) == y).double().mean().item()

    assert accuracy(hardened.core, data.test) == 1.0
    assert robust(hardened) >= robust(plain) and robust(hardened) > 0.9

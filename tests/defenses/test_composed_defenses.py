"""A purifier in front of a classifier that a defense made: `ape-gan+adversarial-training` (APE-GAN's RQ4) and others."""

from __future__ import annotations

import pytest
import torch
from planted import Retrained, conv, seeds, separable
from rbg_attacks.fgsm import fgsm
from rbg_defenses import _pairs
from rbg_defenses.adversarial_training import AdversarialTraining
from rbg_defenses.ape_gan import APEGAN
from rbg_defenses.distillation import Distillation

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.composition import Composed
from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.seeds import fold
from robustbench_gan.nouns.spec import Chain, Spec, as_params
from robustbench_gan.training.loop import accuracy
from robustbench_gan.training.networks import freeze
from robustbench_gan.training.store import Store

SHAPE = (1, 16, 16)
CHEAP = {"epochs": 1, "batch_size": 16, "width": 2, "eps": 0.2}
INNER = {"adversarial-training": AdversarialTraining, "distillation": Distillation}


def given(name, values):
    """Those of the values that the defense has a parameter for."""
    known = registry.parameters(registry.load("defenses", name))
    return {k: v for k, v in values.items() if k in known}


def cheap(name, **more):
    return Spec(name, as_params(given(name, {**CHEAP, **more})))


def built(store, *chain, base=None, key="base", shape=SHAPE):
    base = freeze(conv(2, shape)) if base is None else base
    stages = []
    for spec in chain:
        kind, params = registry.resolve("defenses", spec)
        stages.append(kind(base, **params))
    defense = Composed(stages)
    defense.base_key = key
    defense.fit(separable(48, shape), 0, store)
    return freeze(defense)


@pytest.fixture
def attacked(monkeypatch):
    """The classifiers that the purifier's training images were made against, as they were then."""
    seen, real = [], _pairs.InnerAttack.on

    def on(self, model, split, seed):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return real(self, model, split, seed)

    monkeypatch.setattr(_pairs.InnerAttack, "on", on)
    return seen


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("inner", INNER)
def test_the_purifier_learns_from_attacks_on_the_classifier_that_the_inner_defense_made(
    store, attacked, inner
):
    defense = built(store, cheap("ape-gan"), cheap(inner))
    outer, made = defense.stages
    assert isinstance(outer, APEGAN) and isinstance(made, INNER[inner])
    assert attacked and all(same(weights, made.core.state_dict()) for weights in attacked)
    assert not same(attacked[0], defense.base.state_dict())
    assert defense.core is made.core is outer.core


@pytest.mark.parametrize("inner", INNER)
def test_its_recipe_stands_on_the_key_of_that_classifier(store, inner):
    defense = built(store, cheap("ape-gan"), cheap(inner))
    outer, made = defense.stages
    assert outer.base_key == "+".join(["base", *made.training_keys().values()]) and made.base_key == "base"
    alone, _ = registry.resolve("defenses", cheap("ape-gan"))
    plain = APEGAN(freeze(conv(2, SHAPE)), **dict(cheap("ape-gan").params))
    plain.base_key = "base"
    plain.fit(separable(48, SHAPE), 0, store)
    assert alone is APEGAN and plain.training_keys()["purifier"] != outer.training_keys()["purifier"]
    other = built(store, cheap("ape-gan"), cheap(inner, lr=1e-4))
    assert other.stages[0].training_keys() != outer.training_keys()


def test_a_purifier_inside_a_purifier_leaves_the_classifier_to_be_attacked(store, attacked):
    defense = built(store, cheap("ape-gan"), cheap("magnet"))
    assert defense.stages[0].base_key == "base" and defense.core is defense.base
    assert all(same(weights, defense.base.state_dict()) for weights in attacked)


def test_every_stage_hands_the_next_one_out_its_classifier(store, attacked):
    inner = Retrained(freeze(conv(2, SHAPE)))
    outer = APEGAN(inner.base, **dict(cheap("ape-gan").params))
    middle = AdversarialTraining(inner.base, epochs=1, batch_size=16)
    chain = Composed([outer, inner, middle])
    chain.base_key = "base"
    chain.fit(separable(48, SHAPE), 0, store)
    stood_on, key = inner.stood_on
    assert key == f"base+{middle.training_keys()['core']}" and inner.core[0] is stood_on is not chain.base
    assert outer.base_key == f"{inner.base_key}+new"
    assert all(same(weights, inner.core.state_dict()) for weights in attacked)


def test_purify_first_then_ask_the_trained_classifier(store):
    defense = built(store, cheap("ape-gan"), cheap("adversarial-training"))
    outer, inner = defense.stages
    x = separable(48, SHAPE).test.pixels()[:4]
    out = defense(x, seeds(4))
    assert torch.equal(out.logits, inner.core(outer.purifier(x))) and out.scores.shape == (4, 0)
    assert defense.gradients == ("full", "bpda") and set(defense.parts()) == {"purifier"}
    assert set(defense.training_keys()) == {"0.purifier", "1.core"}


def test_a_second_fit_trains_nothing(store):
    chain = cheap("ape-gan"), cheap("adversarial-training")
    first = built(store, *chain)
    before = {path: path.stat().st_mtime_ns for path in store}
    again = built(Store(store.root), *chain)
    assert {path: path.stat().st_mtime_ns for path in store} == before
    assert again.training_keys() == first.training_keys() and same(first.state_dict(), again.state_dict())


def test_the_purifier_helps_the_trained_classifier_against_the_attack_on_it(store):
    # Gray-box, as in the paper: the attack is on the classifier alone. One that was trained on weak attacks falls to
    # a strong one, and the purifier in front, trained on strong ones against it, gives most of the answers back.
    strong = 0.45
    chain = (
        cheap("ape-gan", eps=strong, epochs=25, width=8),
        cheap("adversarial-training", eps=0.02, epochs=10),
    )
    defense = built(store, *chain)
    data = separable(48, SHAPE)
    x, y = data.test.pixels(), data.test.labels
    made = fgsm(
        View.on(Bare(defense.core), seeds(32)), x, Goal.untargeted(y), Budget("linf", strong), seeds(32)
    )

    def right(logits):
        return (logits.argmax(dim=1) == y).double().mean().item()

    assert accuracy(defense.core, data.test) == 1.0 and right(defense.core(made)) < 0.2
    assert right(defense(made, seeds(32)).logits) > 0.8
    view = View.on(Defended(defense), seeds(32), exact=True)
    _, grad, _ = view.value_and_grad(Goal.untargeted(y).loss, x)
    assert (grad.flatten(1).abs().amax(dim=1) > 0).any()


def test_the_chain_reads_from_its_spec():
    outer, inner = Chain.parse("ape-gan:attack=pgd(steps=5),eps=0.2+adversarial-training:ensemble=a/c")
    kind, params = registry.resolve("defenses", outer)
    assert kind is APEGAN and str(params["attack"]) == "pgd:steps=5" and inner.name == "adversarial-training"


PURIFIERS = {
    "ape-gan": CHEAP,
    "bit-depth": {},
    "cgan": CHEAP,
    "collaborative-defense-gan": CHEAP,
    "defense-gan": {"width": 2, "latent": 4, "gan_steps": 2, "gan_batch": 4, "iterations": 3, "restarts": 2},
    "jpeg": {},
    "magnet": CHEAP,
    "median": {},
}


def test_every_purifier_is_tried_in_front_of_a_trained_classifier():
    found = {name for name in registry.names("defenses") if registry.load("defenses", name).purifies}
    assert found == {*PURIFIERS}


@pytest.mark.parametrize("name", PURIFIERS)
def test_any_purifier_stands_in_front_of_the_classifier_that_an_inner_defense_made(store, name):
    shape = (1, 28, 28)
    outer = Spec(name, as_params(given(name, PURIFIERS[name])))
    base = freeze(conv(2, shape))
    defense = built(store, outer, cheap("adversarial-training"), base=base, shape=shape)
    purifier, trained = defense.stages
    assert defense.core is purifier.core is trained.core is not base and purifier.on_trained
    x, seed = separable(48, shape).test.pixels()[:4], seeds(4)
    out = defense(x, seed)
    with torch.no_grad():
        assert torch.equal(out.logits, trained.core(defense.purify(x, seed)))
    assert not torch.equal(out.logits, base(defense.purify(x, seed)))


@pytest.mark.parametrize("classifier", ["rec", "both"])
def test_a_classifier_of_its_own_does_not_take_the_place_of_a_trained_one(store, classifier):
    outer = Spec("defense-gan", as_params({**PURIFIERS["defense-gan"], "classifier": classifier}))
    with pytest.raises(UsageError, match=f"classifier={classifier} .* write classifier=orig"):
        built(
            store, outer, cheap("adversarial-training"), base=freeze(conv(2, (1, 28, 28))), shape=(1, 28, 28)
        )
    assert not [
        path for path in store if path.name.startswith("wgan-gp")
    ]  # before anything of its own is trained


def test_a_composition_records_its_stages_own_clean_accuracies(store):
    rec = {
        "classifier": "rec",
        "rec_images": 16,
        "rec_iterations": 2,
        "rec_restarts": 1,
        "classifier_epochs": 1,
    }
    inner = Spec("defense-gan", as_params({**PURIFIERS["defense-gan"], **rec}))
    base = freeze(conv(2, (1, 28, 28)))
    defense = built(store, Spec("bit-depth", (("bits", 1),)), inner, base=base, shape=(1, 28, 28))
    data, seed = separable(48, (1, 28, 28)).test, seeds(32)
    x, y = data.pixels(), data.labels
    outer, gan = defense.stages
    seen = outer.purify(x, fold(seed, 0))
    assert not torch.equal(seen, x)
    expected = gan.controls(seen, y, fold(seed, 1))
    assert expected.keys() == {"classifier_rec", "defended_orig"}
    assert defense.controls(x, y, seed) == {f"1.{name}": value for name, value in expected.items()}
    assert built(store, cheap("ape-gan"), cheap("magnet")).controls(x, y, seed) == {}

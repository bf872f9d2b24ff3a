"""Adversarial training: what the inner attack is given, the loss, and a defense that it in fact makes."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from planted import conv, seeds, separable
from planted_kill import Killed, KillsAt
from rbg_attacks.fgsm import fgsm
from rbg_attacks.pgd import pgd
from rbg_defenses.adversarial_training import AdversarialTraining, Source
from torch import nn
from torch.nn import functional as F

from robustbench_gan.base import progress
from robustbench_gan.base.digests import module_digest
from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.models.schedule import Schedule, schedule_of, trained
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.training.checkpoint import Checkpoint
from robustbench_gan.training.loop import accuracy, classifier_recipe
from robustbench_gan.training.store import Store, read_header


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

    def optimise(model, data, loss, schedule, *, seed, description, checkpoint, on_resume):
        x, y = data.pixels(slice(0, 8)), data.labels[:8]
        found.append((loss(x, y), F.cross_entropy(model(x), y), F.cross_entropy(model(1 - x), y)))
        return 0.0

    monkeypatch.setattr(adversarial_training, "optimise", optimise)
    monkeypatch.setattr(AdversarialTraining, "_craft", lambda self, m, x, y, eps, seed: 1 - x)
    built(store, mix=mix)
    ((loss, clean, attacked),) = found
    assert torch.allclose(loss, (1 - mix) * clean + mix * attacked)


def test_the_inner_attack_comes_from_the_registry_with_its_parameters():
    assert built(attack="fgsm").inner.function is fgsm
    nested = built(attack=Spec.parse("pgd:steps=7"))
    assert nested.inner.function is pgd and nested.inner.parameters["steps"] == 7
    with pytest.raises(UsageError, match="unknown attack 'fgms'"):
        built(attack="fgms")
    with pytest.raises(UsageError, match="parameter of attack"):
        built(attack="pgd:stesp=3")


@pytest.mark.parametrize(
    "bad",
    [
        {"mix": 1.1}, {"mix": -0.1}, {"warmup": 1.0}, {"warmup": -0.1}, {"eps": -1.0}, {"norm": "l7"},
        {"epochs": 0}, {"batch_size": 0}, {"lr": -1.0}, {"attack": "advgan"}, {"attack": "bpda"},
        {"attack": "manifold", "norm": "l2"}, {"attack": "fgsm", "norm": "l0"},
    ],
    ids=str,
)  # fmt: skip
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


@trained(Schedule(epochs=10, batch_size=16, lr=1e-2))
def source(shape, classes, *, width: int = 3):
    """A planted classifier for ensembles."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], width), nn.Linear(width, classes)
    )


@pytest.fixture
def sources(monkeypatch):
    """`source` registered under two names."""
    real = registry.load
    monkeypatch.setattr(
        registry, "load", lambda group, name: source if name in ("one", "two") else real(group, name)
    )


def test_each_batch_is_crafted_on_a_frozen_source_or_on_the_model_each_as_often(store, sources, monkeypatch):
    seen, weights = [], {}

    def craft(self, model, x, y, eps, seed):
        assert torch.equal(y, model(x).argmax(dim=1))  # the labels of the one attacked
        seen.append(model)
        weights.setdefault(id(model), {k: v.clone() for k, v in model.state_dict().items()})
        return x

    monkeypatch.setattr(AdversarialTraining, "_craft", craft)
    defense = built(store, ensemble="one/two(width=5)", epochs=75)
    counts = Counter(map(id, seen))
    assert len(seen) == 300 and len(counts) == 3
    assert all(abs(count - 100) < 3 * 8.2 for count in counts.values())  # three deviations of the binomial
    for model in {id(m): m for m in seen}.values():
        frozen = not any(p.requires_grad for p in model.parameters())
        assert frozen == all(torch.equal(v, weights[id(model)][k]) for k, v in model.state_dict().items())
    assert list(defense.training_keys()) == ["core"]


def test_the_sources_are_the_store_s_own_classifiers(store, sources):
    data = separable()
    named = Spec("one", (("width", 3),))
    recipe = classifier_recipe(str(named), schedule_of(source), data, 0, module_digest(source))
    built(store, ensemble="one")
    assert store.has("classifier", recipe)
    model = Source("one").trained(data, 0, store, torch.device("cpu"))
    artifact = store.fetch("classifier", recipe, lambda: pytest.fail("trained a second time"))
    assert all(torch.equal(v, artifact.tensors[k]) for k, v in model.state_dict().items())
    assert accuracy(model, data.test) == 1.0


def test_an_ensemble_is_in_the_recipe_and_none_leaves_the_recipe_as_it_was(store, sources):
    keys = [
        built(store, ensemble=named).training_keys()["core"]
        for named in ("", "one", "one/two", "one(width=4)")
    ]
    assert len(set(keys)) == 4
    (plain, *_) = [json.loads(read_header(path)["recipe"]) for path in store if path.stem == keys[0]]
    assert set(plain) == {
        "recipe_version", "architecture_of", "attack", "attack_code", "code", "budget", "mix", "labels", "warmup",
        "schedule", "data", "seed",
    }  # fmt: skip


def test_the_sources_are_not_needed_once_it_is_trained(store, sources):
    first = built(store, ensemble="one/two")
    for path in list(store):
        if path.stem.startswith("classifier"):
            path.unlink()
    again = built(Store(store.root), ensemble="one/two")
    assert all(torch.equal(v, first.core.state_dict()[k]) for k, v in again.core.state_dict().items())
    assert len(list(store)) == 1


@pytest.mark.parametrize("bad", ["/", "one//two", "no-such-model", "a(dropout=often)", "e(width=3)"])
def test_an_ensemble_of_nothing_is_refused(bad):
    with pytest.raises(UsageError):
        built(ensemble=bad)


def test_an_ensemble_reads_from_a_spec():
    spec = Spec.parse("adversarial-training:ensemble=a(dropout=keep)/c/d,eps=0.3")
    _, params = registry.resolve("defenses", spec)
    assert [s.spec for s in built(**params).ensemble] == [
        "a:dropout=keep",
        "c:dropout=drop",
        "d:dropout=drop",
    ]
    (one,) = built(ensemble=dict(Spec.parse("x:ensemble=a(dropout=keep)").params)["ensemble"]).ensemble
    assert one.spec == "a:dropout=keep"


def test_a_killed_training_goes_on_with_the_seeds_and_the_eps_of_its_steps(store, monkeypatch):
    """Both are functions of the step: warmup would start anew, and the seeds of step 1 would come twice."""
    more = {"attack": "rand-fgsm", "warmup": 0.8, "epochs": 3, "ensemble": "small-cnn"}
    monkeypatch.setattr(AdversarialTraining, "_train", killable(AdversarialTraining._train))
    monkeypatch.setattr(Source, "trained", lambda self, *_: conv(2))
    whole = built(store, **more)
    other = Store(store.root.parent / "other")
    with pytest.raises(Killed), progress.reporting_to(KillsAt(8)):
        built(other, **more)
    assert len(list((other.root / "unfinished").iterdir())) == 1 and not list(other)
    resumed = built(other, **more)
    assert not list((other.root / "unfinished").iterdir())
    key = whole.training_keys()["core"]
    assert resumed.training_keys()["core"] == key
    assert other.used[key].digest == store.used[key].digest


def killable(train):
    """The training with its state on disk every third step."""

    def often(self, model, data, seed, checkpoint, sources=()):
        return train(self, model, data, seed, Checkpoint(checkpoint.path, 3), sources)

    return often

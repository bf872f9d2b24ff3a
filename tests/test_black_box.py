"""The black-box protocol through the whole engine: what is asked and learnt, how often, and what the record says."""

from __future__ import annotations

import pytest
import torch
from planted_cells import grey
from planted_defenses import Noisy
from planted_plugins import cell, installed, judged, planned  # noqa: F401 - fixtures

from robustbench_gan.base.errors import UsageError
from robustbench_gan.cell import craft
from robustbench_gan.data.dataset import HOLDOUT
from robustbench_gan.engine.plan import steps_of
from robustbench_gan.training import black_box, fitting, oracles, substitute
from robustbench_gan.training.loop import optimise
from robustbench_gan.training.oracles import untrained_substitute
from robustbench_gan.training.orders import names_of

N = 20


class Asked:
    """What a workshop's oracles were asked, in the order they were."""

    def __init__(self, shop, monkeypatch):
        self.images, real = [], oracles.oracle_of

        def counting(workshop, names, threat):
            oracle = real(workshop, names, threat)

            def ask(x):
                self.images.append(x.clone())
                return oracle(x)

            return ask

        for module in (black_box, fitting):
            monkeypatch.setattr(module, "oracle_of", counting)


BLACK = "black-box:model=quick"


def test_the_protocol_of_the_paper_asks_4650_queries_from_150_test_images(shop, monkeypatch):
    asked, learnt = Asked(shop, monkeypatch), []

    def recorded(module, data, loss, schedule, **rest):
        learnt.append((len(data), schedule.epochs, schedule.batch_size, schedule.lr, schedule.one_cycle))
        if len(learnt) == 1:
            test = grey().test.take(slice(0, HOLDOUT))
            assert torch.equal(data.images, test.pixels()) and torch.equal(data.labels, test.labels)
        return optimise(module, data, loss, schedule, **rest)

    monkeypatch.setattr(substitute, "optimise", recorded)
    result = cell(shop, threats=BLACK, attacks="fgsm", eps=0.3, defenses="noisy")
    assert learnt == [(n, 10, 50, 1e-3, False) for n in (150, 300, 600, 1200, 2400, 4800)]
    assert [len(x) for x in asked.images] == [150, 300, 600, 1200, 2400]
    assert sum(len(x) for x in asked.images) == 4650
    told = {"protocol": "papernot", "model": "quick", "oracle": "defended", "answers": "labels"}
    told |= {"step_sign": "plus", "images": 150, "rounds": 6, "points": 4800, "queries": 4650, "rejected": 0}
    assert {name: result.substitute[name] for name in told} == told
    again = cell(shop, threats=BLACK, attacks="pgd:steps=2", eps=0.3, defenses="noisy")
    assert len(learnt) == 6 and again.weights["substitute"] == result.weights["substitute"]


def test_the_sign_rule_reaches_the_augmentation(shop, monkeypatch):
    asked = Asked(shop, monkeypatch)
    for sign in ("plus", "periodic"):
        result = cell(shop, threats=f"{BLACK},rounds=5,step_sign={sign}", attacks="fgsm")
        assert result.substitute["step_sign"] == sign
    plus, periodic = asked.images[:4], asked.images[4:]
    same = [torch.equal(a, b) for a, b in zip(plus, periodic, strict=True)]
    assert same == [True, True, True, False]


def test_a_substitute_with_parameters_is_written_with_parentheses_or_a_colon(shop):
    (one,), (two,) = (
        planned(shop, threats=f"black-box:model={m}") for m in ("b(dropout=keep)", "b:dropout=keep")
    )
    assert one == two and str(one.threat.model) == "b:dropout=keep"
    with pytest.raises(UsageError, match="unknown parameter of model 'b'"):
        planned(shop, threats="black-box:model=b(drop=keep)")


@pytest.mark.parametrize(("oracle", "sees"), [("defended", True), ("undefended", False)])
def test_the_oracle_is_the_defended_system_unless_the_classifier_is_asked_for(shop, oracle, sees):
    # `rejectall` answers nothing: a substitute of it learns from its 150 images alone.
    result = cell(shop, threats=f"{BLACK},rounds=2,oracle={oracle}", defenses="rejectall", attacks="fgsm")
    assert result.substitute["rejected"] == (150 if sees else 0)
    assert result.substitute["agreement"] == (0.0 if sees else pytest.approx(result.substitute["accuracy"]))


def test_a_substitute_of_the_classifier_alone_serves_every_defense(shop, monkeypatch):
    asked = Asked(shop, monkeypatch)
    every = {"threats": f"{BLACK},rounds=2,oracle=undefended", "attacks": "fgsm"}
    one, two = (cell(shop, **every, defenses=d) for d in ("noisy", "rejectall"))
    assert one.weights["substitute"] == two.weights["substitute"] and len(asked.images) == 1
    items = planned(shop, **every, defenses=["noisy", "none"])
    assert sum(step.kind == "substitute" for step in steps_of(items)) == 1


def test_accuracy_and_agreement_are_those_of_the_judged_images(shop):
    # `bent` is untrained, so what the oracle says is not what is right.
    asked = {"threats": f"{BLACK},rounds=3", "classifiers": "bent"}
    result, (item,) = cell(shop, **asked, attacks="fgsm"), planned(shop, **asked)
    model, _ = shop.substitute(result.cell.dataset, "bent", "none", item.threat)
    oracle, _ = shop.classifier(result.cell.dataset, "bent")
    split = grey().test.take(slice(HOLDOUT, HOLDOUT + N))
    own, told = (net(split.pixels()).argmax(dim=1) for net in (model, oracle))
    accuracy, agreement = (float((own == other).double().mean()) for other in (split.labels, told))
    assert (result.substitute["accuracy"], result.substitute["agreement"]) == (accuracy, agreement)
    assert accuracy != agreement


def test_only_a_periodic_step_changes_the_recipe_of_a_substitute(shop):
    names = names_of("grey:classes=3,side=4,tests=200", "fixed", "none")
    recipes = {}
    for sign in ("plus", "periodic"):
        (item,) = planned(shop, threats=f"{BLACK},step_sign={sign}")
        recipes[sign] = untrained_substitute(shop, names, item.threat)[1]
    assert "step_sign" not in recipes["plus"]
    assert recipes["periodic"] == {**recipes["plus"], "step_sign": "periodic"}
    with pytest.raises(UsageError, match="step_sign is of papernot's augmentation; static has none"):
        planned(shop, threats=f"{BLACK},substitute=static,step_sign=periodic")
    with pytest.raises(UsageError, match="unknown value of black-box:step_sign: 'minus'"):
        planned(shop, threats=f"{BLACK},step_sign=minus")


@pytest.mark.parametrize(
    "attack",
    ["fgsm", "pgd:steps=3", "cw:preset=fast", "square:queries=10", "hopskipjump:queries=60", "deepfool"],
)
def test_attacks_of_every_kind_run_on_a_substitute_and_ask_the_defense_nothing(shop, attack, monkeypatch):
    asked = {"threats": f"{BLACK},rounds=2", "defenses": "noisy", "norm": "l2", "eps": 2.0}
    (item,) = planned(shop, **asked)
    crafted = []
    real, purify = craft._attack, Noisy.purify
    monkeypatch.setattr(
        craft, "_attack", lambda *a, **k: crafted.append("in") or (real(*a, **k), crafted.append("out"))[0]
    )
    monkeypatch.setattr(
        Noisy, "purify", lambda self, x, seed: crafted.append("defense") or purify(self, x, seed)
    )
    shop.substitute(item.cell.dataset, item.cell.classifier, "noisy", item.threat)  # it is asked here alone
    crafted.clear()
    result = cell(shop, **asked, attacks=attack)
    assert result.status in ("ok", "suspect"), result.reason
    assert "defense" not in crafted[: crafted.index("out")]
    assert result.substitute["queries"] == 150 and sum(judged(result).forward) > 0

"""What is not applicable is known from declarations: no defense can decline an attack, and no attack once it has begun."""

from __future__ import annotations

import planted_refusers
import pytest
import torch
from planted_plugins import also_installed, cell, installed, planned  # noqa: F401 - fixtures

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.engine.refusals import refused_before
from robustbench_gan.leaderboard.headline import tables
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.spec import Spec

PLACES = ["fit", "purify", "gradient", "surrogate", "scores", "gradients", "parts", "controls"]
IMPOSSIBLE = {
    "pgd:steps=0": "linf", "pgd:restarts=0": "l2", "pgd:step=-0.1": "linf", "pgd:momentum=-1": "linf",
    "bim:steps=0": "linf", "bpda:restarts=0": "linf", "apgd:classes=0": "linf", "fmn:gamma=2": "l1",
    "cw:steps=-1": "l2", "cw:kappa=1": "l0", "cw:preset=fast,lr=1": "l2", "cw-bounded:lr=-1": "linf",
    "deepfool:overshoot=-1": "l2", "hopskipjump:queries=0": "l2", "jsma:theta=0": "l0", "jsma:gamma=0": "l0",
    "lbfgs:initial_const=0": "l2", "square:queries=0": "linf", "square:share=0": "l2", "rand-fgsm:alpha=-1": "linf",
    "manifold:steps=0": "l2", "bpda-learned:lr=0": "linf", "advgan:steps=0": "linf", "advgan:kappa=-1": "linf",
    "ai-gan:attacker_steps=0": "linf", "ai-gan:lr=0": "linf",
}  # fmt: skip


refusers = also_installed("refusers", planted_refusers.ENTRY_POINTS)


@pytest.mark.parametrize("place", PLACES)
def test_no_defense_can_decline_an_attack(shop, place):
    result = cell(shop, defenses=f"refuser:at={place}")
    assert result.status == "failed" and "NotApplicable" in result.reason, (result.status, result.reason)
    assert "never on a Tuesday" in result.reason


@pytest.mark.parametrize(
    ("place", "asked"),
    [("truncated", {"gradient": "truncated"}), ("copy", {"threats": "gray-box:copy"})],
)
def test_nor_where_only_one_threat_model_meets_it(shop, place, asked):
    assert cell(shop, defenses=f"refuser:at={place}").status == "ok"
    result = cell(shop, defenses=f"refuser:at={place}", **asked)
    assert result.status == "failed" and f"at {place}" in result.reason, (result.status, result.reason)


def test_a_defense_that_refuses_gradients_does_not_rank_as_if_it_had_withstood_them(shop):
    asked = {"attacks": ["fgsm", "square:queries=5"], "threats": "white-box"}
    cells = planned(shop, defenses=["refuser:at=gradient", "none"], **asked)
    from robustbench_gan.cell.context import Settings
    from robustbench_gan.cell.evaluate import evaluate_cell

    (table,) = tables([evaluate_cell(item, shop, Settings()) for item in cells])
    last = table.standings[-1]
    assert last.defense.name.startswith("refuser") and last.incomplete and not table.standings[0].incomplete
    assert [status for _, status in last.missing] == ["failed"]


def test_a_constructor_declines_for_all_attacks_alike_before_any_is_run(shop):
    for item in planned(shop, defenses="refuser:at=init", attacks=["fgsm", "noise"]):
        assert item.reason == "never on a Tuesday, at init"


def test_a_defense_that_is_another_than_it_was_planned_as_fails(shop):
    result = cell(shop, defenses="liar")
    assert result.status == "failed" and "randomised was False when its attacks were planned" in result.reason


def test_an_attack_declines_what_it_is_asked_before_it_begins(shop):
    (near,), (beyond,) = (planned(shop, attacks="far", eps=eps) for eps in (0.2, 0.3))
    assert (near.reason, beyond.reason) == ("", "only for an eps of 0.25 at most")
    lacking = cell(shop, attacks="lens")  # which parts there are, only the run tells
    assert (lacking.status, lacking.reason) == ("not applicable", "no lens")


@pytest.mark.parametrize(("attack", "why"), [("late", "does not please"), ("picky", "not this one")])
def test_an_attack_that_declines_for_anything_else_has_failed(shop, attack, why):
    result = cell(shop, attacks=attack)
    assert result.status == "failed" and why in result.reason


@pytest.mark.parametrize("attack", IMPOSSIBLE)
def test_an_impossible_attack_is_refused_before_anything_runs(attack):
    spec = Spec.parse(attack)
    function = registry.load("attacks", spec.name)
    eps = torch.inf if info_of(function).minimal else 0.1
    budget = Budget(IMPOSSIBLE[attack], eps)
    assert (
        refused_before(function, Spec(spec.name), budget, "untargeted", (1, 16, 16), 10) == ""
    )  # its defaults are sound
    with pytest.raises(UsageError, match=spec.params[-1][0].split("_")[0]):
        refused_before(function, spec, budget, "untargeted", (1, 16, 16), 10)


def test_what_a_norm_or_the_classes_rule_out_is_known_as_early(shop):
    for defense in ("none", "noisy"):
        (item,) = planned(shop, attacks="cw:preset=fast", defenses=defense)
        assert item.reason == "cw's preset 'fast' is defined in l2, not in linf"
        (item,) = planned(shop, attacks="pgd:loss=dlr", defenses=defense, datasets="grey:classes=2")
        assert "ranks 3 classes" in item.reason
        with pytest.raises(UsageError, match="steps"):
            planned(shop, attacks="pgd:steps=0", defenses=defense)


def test_rehearsing_an_attack_moves_no_global_generator():
    state = torch.get_rng_state()
    function = registry.load("attacks", "ai-gan")
    assert refused_before(function, Spec("ai-gan"), Budget("linf", 0.1), "random", (1, 16, 16), 10) == ""
    assert torch.equal(torch.get_rng_state(), state)

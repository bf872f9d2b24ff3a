"""Attacks trained through a substitute, and the red flags of a training."""

from __future__ import annotations

import pytest
from planted_plugins import cell, flags, installed, planned  # noqa: F401 - fixtures
from trained_shop import BLACK, DATA, SCALE, fits, trained_plugins, trained_shop  # noqa: F401 - fixtures

from robustbench_gan.base.errors import UsageError
from robustbench_gan.data.dataset import HOLDOUT

# ---- black-box


def test_papernot_gives_the_150_images_and_nothing_else(shop):
    result = cell(shop, **SCALE, threats=BLACK + "papernot")
    assert result.trained["images"] == HOLDOUT and result.trained["on"] == "substitute"
    assert result.weights.keys() == {"classifier", "substitute", "attack"}
    assert result.substitute["queries"] == HOLDOUT


@pytest.mark.parametrize("answers", ["labels", "scores"])
def test_static_distils_once_on_the_validation_images(shop, answers):
    threat = f"{BLACK}static,answers={answers}"
    result, count = cell(shop, **SCALE, threats=threat), len(DATA.validation)
    assert result.trained["on"] == "substitute" and result.trained["images"] == count
    facts = result.substitute
    assert (facts["protocol"], facts["queries"], facts["points"]) == ("static", count, count)
    assert facts["answers"] == answers
    plain = cell(shop, attacks="pgd:steps=3", eps=0.2, threats=threat)  # any attack can run on it
    assert plain.trained == {} and plain.weights["substitute"] == result.weights["substitute"]


def test_labels_and_scores_make_different_substitutes(shop):
    made = [
        cell(shop, attacks="fgsm", threats=f"{BLACK}static,answers={a}").weights for a in ("labels", "scores")
    ]
    assert made[0]["substitute"] != made[1]["substitute"]


@pytest.mark.parametrize("attack", ["shove", "shove-any"])
def test_dynamic_takes_turns_and_asks_for_the_examples_of_every_round(shop, attack):
    result, count = (
        cell(shop, attacks=f"{attack}:steps=6", eps=0.2, threats=BLACK + "dynamic"),
        len(DATA.validation),
    )
    assert result.status == "ok", result.reason
    assert fits() == 2 and result.trained["steps"] == 6  # half of the steps in each of two rounds
    assert result.substitute["queries"] == count + 2 * count
    assert result.weights.keys() == {"classifier", "attack"}  # the substitute is stored with the generator
    again = cell(shop, attacks=f"{attack}:steps=6", eps=0.2, threats=BLACK + "dynamic", samples=5)
    assert again.weights == result.weights and fits() == 2


def test_dynamic_with_a_generator_a_class_counts_the_queries_of_all(shop):
    result = cell(shop, **SCALE, goals="all", threats=BLACK + "dynamic")
    assert result.trained["generators"] == 3 and fits() == 3 * 2
    assert result.substitute["queries"] == 3 * 3 * len(DATA.validation)


def test_dynamic_is_for_trained_attacks_and_the_control(shop):
    result = cell(shop, attacks="pgd", threats=BLACK + "dynamic")
    assert (
        result.status == "not applicable" and "beside a generator, and the attack has none" in result.reason
    )
    control = cell(shop, attacks="noise", threats=BLACK + "dynamic")
    assert control.outcomes is not None and control.substitute == {} and control.trained == {}


def test_papernot_learns_from_labels_alone(shop):
    with pytest.raises(UsageError, match="papernot learns from labels alone; take substitute=static"):
        planned(shop, threats=BLACK + "papernot,answers=scores")


def test_query_grants_no_gradient_to_train_with(shop):
    result = cell(shop, **SCALE, threats="query")
    assert result.status == "not applicable" and "needs gradient" in result.reason


# ---- red flags look at the training


def test_a_training_that_saw_only_zeros_is_suspect(shop):
    result = cell(shop, **SCALE, defenses="zerogradient", gradient="full")
    assert result.status == "suspect" and flags(result)["zero-gradient"] == "invalid"


@pytest.mark.parametrize(("looks", "flag"), [(0, "defense-not-attacked"), (1, "no-backward")])
def test_a_training_that_never_asked_is_suspect(shop, looks, flag):
    result = cell(shop, attacks=f"lazy:looks={looks}", eps=0.2)
    assert result.status == "suspect" and flags(result) == {flag: "invalid"}


def test_a_training_without_a_gradient_to_follow_is_a_failed_cell(shop):
    result = cell(shop, **SCALE, defenses="detached", gradient="full")
    assert result.status == "failed" and result.reason.startswith("DisconnectedGradient")


def test_the_attack_of_the_cut_gradient_stays_a_control(shop):
    result = cell(shop, **SCALE, gradient="cut")
    assert result.status == "suspect" and "cut-gradient" in flags(result)

"""Classifiers of every form in the cells of `rbg evaluate`: a number where there is one, else failed or flagged."""

from __future__ import annotations

import pytest
import torch
from planted_cells import Fixed, grey
from planted_plugins import cell, flags, installed, judged  # noqa: F401

from robustbench_gan.data.dataset import HOLDOUT

N = 20
EPS = 0.2


@pytest.mark.parametrize("form", ["tuple", "dict", "double", "edits", "more"])
@pytest.mark.parametrize("attack", ["noise", "fgsm", "square:queries=20"])
def test_what_holds_logits_has_the_numbers_of_the_bare_network(shop, form, attack):
    found, plain = (
        cell(shop, classifiers=c, attacks=attack, eps=EPS) for c in (f"answers:form={form}", "fixed")
    )
    assert found.status == plain.status and flags(found) == flags(plain), found.reason
    assert judged(found).robust == judged(plain).robust and judged(found).clean == judged(plain).clean


@pytest.mark.parametrize("threat", ["gray-box", "black-box:substitute=papernot,rounds=1"])
def test_other_attackers_meet_the_same_door(shop, threat):
    asked = {"attacks": "fgsm", "threats": threat, "defenses": "otherrange", "eps": EPS}
    found, plain = (cell(shop, classifiers=c, **asked) for c in ("answers:form=tuple", "fixed"))
    assert judged(found).robust == judged(plain).robust


def test_a_classifier_that_answers_in_tuples_can_be_trained_on(shop):
    """Its copy in adversarial training answers as it does, and becomes what the bare network becomes."""
    defense = "adversarial-training:epochs=1"
    found, plain = (
        cell(shop, classifiers=c, defenses=defense, eps=EPS) for c in ("answers:form=tuple", "fixed")
    )
    assert found.status == plain.status == "ok", found.reason
    assert judged(found).robust == judged(plain).robust


@pytest.mark.parametrize("attack", ["noise", "fgsm", "square:queries=20", "deepfool"])
def test_a_classifier_without_an_answer_has_failed_under_every_attack(shop, attack):
    norm = "l2" if attack == "deepfool" else "linf"
    result = cell(shop, classifiers="answers:form=away", attacks=attack, norm=norm, eps=0.1234)
    assert result.status == "failed" and flags(result) == {"not-a-number": "invalid"}
    assert "answered NaN" in result.reason


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("one", "give two logits"),
        ("few", "2 classes, fewer than the 3"),
        ("labels", "what comes before argmax"),
    ],
)
def test_what_is_no_logits_fails_in_one_line(shop, form, said):
    result = cell(shop, classifiers=f"answers:form={form}")
    assert result.status == "failed" and said in result.reason and "\n" not in result.reason


def test_the_true_class_masked_out_is_no_answer(shop):
    """Of the images judged, some are of the class that the model never answers."""
    split = grey().test.take(slice(HOLDOUT, HOLDOUT + N))
    assert (split.labels == 2).any()
    result = cell(shop, classifiers="answers:form=masked", attacks="noise")
    assert result.status == "failed" and flags(result) == {"not-a-number": "invalid"}


def test_what_the_company_decides_is_the_same_however_many_are_judged(shop):
    """Clean images stand among the test images that follow, judged or not."""
    asked = {"classifiers": "answers:form=coupled", "attacks": "noise"}
    few, many = (judged(cell(shop, **asked, samples=n)).clean[0] for n in (N, 2 * N))
    assert few == many[:N] and "0" in few and "1" in few


@pytest.mark.parametrize("samples", [2, N])
@pytest.mark.parametrize("attack", ["noise", "fgsm"])
def test_answers_that_depend_on_the_company_are_flagged_at_every_size(shop, samples, attack):
    result = cell(shop, classifiers="answers:form=coupled", attacks=attack, samples=samples)
    assert result.status == "suspect" and flags(result)["batch-dependent"] == "invalid"
    pixels = grey().test.take(slice(HOLDOUT, HOLDOUT + 2)).pixels()
    z = Fixed(3)(pixels)
    assert not torch.allclose((z - 3 * z.mean(dim=0))[0], z[0] - 3 * z[0])  # the company of two is seen

"""Failures and statuses of cells carry the flag that names them."""

from __future__ import annotations

import pytest
from planted_plugins import cell, flags, installed  # noqa: F401


@pytest.mark.parametrize(
    ("asked", "status", "flag"),
    [
        ({"defenses": "detached", "gradient": "full"}, "failed", "disconnected-gradient"),
        ({"attacks": "over"}, "failed", "budget-violation"),
        ({"attacks": "out-of-box"}, "failed", "budget-violation"),
        ({"attacks": "wrong-dtype"}, "failed", "budget-violation"),
        ({"attacks": "nan"}, "failed", "not-a-number"),
        ({"defenses": "answersnan", "attacks": "no-backward", "eps": 0.3}, "failed", "not-a-number"),
        ({"attacks": "pgd:loss=dlr", "datasets": "grey:classes=2"}, "not applicable", "dlr-undefined"),
    ],
)
def test_a_cell_without_a_number_names_its_flag(shop, asked, status, flag):
    result = cell(shop, **asked)
    assert result.status == status and flag in flags(result), (result.status, result.reason, flags(result))


@pytest.mark.parametrize("attack", ["crashes", "edits", "wrong-shape", "no-tensor"])
def test_other_failures_are_told_by_their_status(shop, attack):
    result = cell(shop, attacks=attack)
    assert result.status == "failed" and flags(result) == {}


def test_an_honest_cell_raises_nothing(shop):
    result = cell(shop, attacks="pgd:steps=20", eps=0.1)
    assert (result.status, flags(result)) == ("ok", {})


def test_cells_of_one_system_share_its_probe(shop, monkeypatch):
    import robustbench_gan.cell.evaluate as engine

    looked, real = [], engine.probe
    monkeypatch.setattr(engine, "probe", lambda *given: looked.append(given) or real(*given))
    for attack in ("fgsm", "pgd:steps=20"):
        cell(shop, attacks=attack)
    assert len(looked) == 1
    cell(shop, defenses="noisy")
    assert len(looked) == 2


@pytest.mark.parametrize(
    ("asked", "flag", "severity"),
    [
        ({"classifiers": "sharp"}, "zero-gradient", "invalid"),
        ({"classifiers": "sharp"}, "saturated-loss", "warning"),
        ({"classifiers": "softmaxed"}, "probabilities-as-logits", "invalid"),
        ({"classifiers": "dropped"}, "always-on-dropout", "invalid"),
        ({"defenses": "remembers"}, "stateful-defense", None),
        ({"defenses": "otherrange"}, "range-mismatch", "warning"),
        ({"defenses": "untrained"}, "misconfigured-purifier", "warning"),
        ({"defenses": "descends"}, "inference-time-optimisation", "note"),
        ({"defenses": "secretlyrandom"}, "undeclared-randomness", "invalid"),  # under one judge seed
        ({"defenses": "rejectall"}, "rejects-clean-images", "warning"),
        ({"defenses": "noisy"}, "single-seed", "warning"),
        ({"defenses": "noisy"}, "no-eot", "warning"),
        ({"defenses": "notices", "eps": 0.21}, "detector-not-attacked", "warning"),
        ({"defenses": "swaps", "classifiers": "bent"}, "reconstructions-beat-originals", "warning"),
        (
            {
                "defenses": "zerogradient",
                "attacks": "pgd:steps=20,random_start=false",
                "gradient": "full",
                "eps": 0.5,
            },
            "robust-at-half",
            "invalid",
        ),
        (
            {"defenses": "rejectall", "threats": "black-box:model=quick,rounds=1", "attacks": "fgsm"},
            "weak-substitute",
            "warning",
        ),
        ({"attacks": "pgd:steps=3"}, "weak-hyper-parameters", "warning"),
        ({"attacks": "pgd:steps=40,step=0.2"}, "weak-hyper-parameters", "warning"),
    ],
)
def test_a_planted_fault_raises_its_flag_and_an_honest_system_does_not(shop, asked, flag, severity):
    found = flags(cell(shop, **{"attacks": "pgd:steps=20", **asked}))
    assert flag in found and severity in (None, found[flag]), found
    assert flag not in flags(cell(shop, attacks="pgd:steps=20"))

"""Red flags of the system: randomness, purifiers and detectors."""

from __future__ import annotations

import pytest
import torch
from planted_evidence import N, evidence, info, raised, red_flags, rows

from robustbench_gan.contracts.threat import gray_box, seed_known, white_box
from robustbench_gan.flags.thresholds import AGREEMENT
from robustbench_gan.nouns.evidence import Probe, Shown

# ---- randomness


def test_answers_that_change_with_the_seed_must_be_declared():
    right = rows(True, True, True)
    right[1, 3] = False
    assert raised(right=right) == {"undeclared-randomness": "invalid"}
    assert raised(right=right, randomised=True, threat=gray_box()) == {}
    assert red_flags(evidence(right=right))[0].evidence["samples"] == 1
    assert raised(probe=Probe(seeds_vary=2e-4)) == {"undeclared-randomness": "invalid"}
    assert raised(probe=Probe(seeds_vary=0.5e-4)) == {}


def test_answers_that_change_under_one_seed():
    assert raised(probe=Probe(repeats_vary=0.1)) == {"stateful-defense": "warning"}
    assert raised(probe=Probe(repeats_vary=0.1, label_changed=True)) == {"stateful-defense": "invalid"}
    assert raised(probe=Probe(repeats_vary=1e-5)) == {}
    own = Probe(repeats_vary=0.1, own_randomness=True)
    assert raised(probe=own) == {"undeclared-randomness": "invalid"}
    assert raised(probe=own, randomised=True, right=rows(1, 1, 1) > 0, threat=gray_box()) == {
        "undeclared-randomness": "invalid"
    }


def test_dropout_that_is_always_on_explains_what_else_changes():
    noisy = Probe(core_varies=0.1, repeats_vary=0.1, seeds_vary=0.1)
    assert raised(probe=noisy) == {"always-on-dropout": "invalid"}


@pytest.mark.parametrize(("seeds", "severity"), [(1, "warning"), (2, "note"), (3, None)])
def test_a_randomised_defense_wants_several_judge_seeds(seeds, severity):
    right = torch.ones(seeds, N, dtype=torch.bool)
    found = raised(right=right, randomised=True, threat=gray_box())
    assert found == ({"single-seed": severity} if severity else {})
    assert raised(right=right) == {}  # one answer is all there is


def test_a_randomised_defense_wants_eot():
    several = {"randomised": True, "right": rows(True, True, True)}
    assert raised(**several) == {"no-eot": "warning"}
    assert raised(**several, threat=white_box(draws=20)) == {}
    assert raised(**several, threat=seed_known()) == {}
    assert raised(**several, info=info("scores")) == {}


# ---- purifiers and detectors


def test_what_the_probe_sees_of_a_purifier():
    assert raised(probe=Probe(differentiates=True)) == {"inference-time-optimisation": "note"}
    assert raised(unrolls=True) == {"inference-time-optimisation": "note"}
    assert raised(purifies=True) == {}
    assert raised(purifies=True, shown=Shown(outside=0.02)) == {"range-mismatch": "warning"}
    assert raised(purifies=True, shown=Shown(outside=0.005)) == {}


def test_a_purifier_that_destroys_clean_images():
    far, worse = Shown(distance=0.2), {"classifier": 0.99, "defended": 0.5}
    assert raised(purifies=True, shown=far, controls=worse) == {"misconfigured-purifier": "warning"}
    assert raised(purifies=True, shown=far) == {}  # far, yet right
    assert raised(purifies=True, shown=Shown(distance=0.02), controls=worse) == {}
    assert raised(purifies=False, shown=far, controls=worse) == {}


def test_a_purifier_that_leaves_nothing_of_the_image():
    assert raised(purifies=True, shown=Shown(spread=0.0005, likeness=0.0)) == {"image-discarded": "invalid"}
    assert raised(purifies=True, shown=Shown(spread=0.002, likeness=0.9)) == {}
    assert raised(purifies=True, shown=Shown(likeness=-0.05)) == {"image-discarded": "warning"}
    assert raised(purifies=True, shown=Shown(likeness=-0.5)) == {}
    assert raised(purifies=False, shown=Shown(spread=0.0)) == {}


def test_an_attack_that_its_seeds_do_not_govern():
    assert raised(repeats=False) == {"irreproducible-attack": "warning"}
    assert raised(drew=("numpy", "torch")) == {"global-generator": "warning"}
    varies = Probe(repeats_vary=0.1, own_randomness=True)
    assert raised(repeats=False, drew=("torch",), probe=varies) == {"undeclared-randomness": "invalid"}


def test_purified_images_are_not_classified_better():
    better = {"classifier": 0.80, "defended": 0.89}  # two standard errors of 100 images are 0.08
    assert raised(purifies=True, controls=better) == {"reconstructions-beat-originals": "warning"}
    assert raised(purifies=True, controls={"classifier": 0.80, "defended": 0.87}) == {}
    assert raised(purifies=False, controls=better) == {}


@pytest.mark.parametrize(("share", "found"), [(0.10, False), (0.11, True), (1.0, True)])
def test_detectors_that_reject_clean_images(share, found):
    scores = torch.where(torch.arange(N) < share * N, 1.0, -1.0)[:, None]
    assert raised(scores=scores) == ({"rejects-clean-images": "warning"} if found else {})


def test_an_attack_that_forgets_the_detector():
    quiet, stopped = -torch.ones(N, 1), (torch.arange(N) < 51)[None]
    assert raised(scores=quiet, stopped=stopped) == {"detector-not-attacked": "warning"}
    assert raised(scores=quiet, stopped=stopped, threat=gray_box()) == {}  # it does not know of any
    assert raised(scores=quiet, stopped=stopped, info=info("nothing")) == {}
    assert raised(scores=quiet, stopped=(torch.arange(N) < 50)[None]) == {}


@pytest.mark.parametrize(
    ("agreement", "found"), [(0.79, True), (AGREEMENT, False), (1.0, False), (None, False)]
)
def test_a_substitute_that_disagrees_is_weak(agreement, found):
    assert raised(agreement=agreement) == ({"weak-substitute": "warning"} if found else {})

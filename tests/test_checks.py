"""Red flags: each raised by its own evidence, at its threshold, and by nothing else."""

from __future__ import annotations

import pytest
import torch

from robustbench_gan.attack import AttackInfo
from robustbench_gan.checks import AGREEMENT, EXPLANATIONS, ZERO_GRADIENT_SHARE, Evidence, red_flags
from robustbench_gan.threat import Counts, gray_box, white_box

N = 100


def info(needs="gradient", minimal=False):
    return AttackInfo(("linf",), needs, lambda p: 1, minimal, True, None, False, "planted")


def counts(**changed):
    """An attack that took one gradient, not zero, of every sample."""
    one, zero = torch.ones(N, dtype=torch.int64), torch.zeros(N, dtype=torch.int64)
    whole = {"forward": one, "backward": one, "calls": one, "gradients": one, "zero_gradients": zero}
    return Counts(**{**whole, **changed})


def evidence(**changed):
    """Nothing suspicious: all of eps used, every sample right, one judge seed."""
    whole = {
        "info": info(), "threat": white_box(), "gradients": ("full",), "counts": counts(), "eps": 0.3,
        "norm": "linf", "sizes": torch.full((1, N), 0.3), "clean": torch.ones(1, N, dtype=torch.bool),
        "robust": torch.ones(1, N, dtype=torch.bool), "randomised": False, "agreement": None,
    }  # fmt: skip
    return Evidence(**{**whole, **changed})


def raised(**changed):
    return {flag.id: flag.severity for flag in red_flags(evidence(**changed))}


def some(count):
    """Ones for the first `count` samples."""
    return (torch.arange(N) < count).to(torch.int64)


def test_an_honest_attack_raises_nothing():
    assert raised() == {}


@pytest.mark.parametrize(
    ("zero", "severity"), [(0, None), (1, "note"), (5, "note"), (6, "invalid"), (N, "invalid")]
)
def test_zero_gradients_are_invalid_above_their_share(zero, severity):
    assert ZERO_GRADIENT_SHARE == 0.05
    flag = red_flags(evidence(counts=counts(zero_gradients=some(zero))))
    assert [(f.id, f.severity) for f in flag] == ([("zero-gradient", severity)] if severity else [])
    if flag:
        assert flag[0].evidence == {"samples": zero, "of": N}


def test_a_sample_with_one_gradient_that_is_not_zero_moved():
    two = torch.full((N,), 2)
    assert raised(counts=counts(gradients=two, zero_gradients=torch.ones(N, dtype=torch.int64))) == {}
    assert "zero-gradient" in raised(counts=counts(gradients=two, zero_gradients=two))


def test_samples_that_were_wrong_anyway_are_no_evidence():
    clean = (torch.arange(N) >= 50)[None]
    assert raised(clean=clean, counts=counts(zero_gradients=some(50))) == {}
    assert raised(clean=clean, counts=counts(zero_gradients=some(53)))["zero-gradient"] == "invalid"
    nobody = torch.zeros(1, N, dtype=torch.bool)
    assert raised(clean=nobody, counts=Counts.zeros(N), sizes=torch.zeros(1, N)) == {}


def test_right_under_one_judge_seed_is_attackable():
    clean = torch.zeros(2, N, dtype=torch.bool)
    clean[1] = True
    assert raised(clean=clean, sizes=torch.zeros(1, N), randomised=True) == {"no-perturbation": "invalid"}


def test_a_white_box_attack_must_call_the_system_and_ask_for_gradients():
    none = torch.zeros(N, dtype=torch.int64)
    assert raised(counts=Counts.zeros(N)) == {"defense-not-attacked": "invalid"}
    assert raised(counts=counts(backward=none, gradients=none)) == {"no-backward": "invalid"}
    assert raised(counts=Counts.zeros(N), threat=gray_box()) == {"no-backward": "invalid"}


def test_passes_through_a_part_alone_are_no_call_of_the_system():
    none = torch.zeros(N, dtype=torch.int64)
    parts = counts(calls=none, backward=none, gradients=none)
    assert raised(counts=parts) == {"defense-not-attacked": "invalid"}


@pytest.mark.parametrize("needs", ["nothing", "labels", "scores"])
def test_attacks_without_gradients_owe_none(needs):
    assert raised(info=info(needs), counts=Counts.zeros(N)) == {}


@pytest.mark.parametrize(
    ("share", "found"), [(0.0, "invalid"), (0.001, "warning"), (0.49, "warning"), (0.51, None), (1.0, None)]
)
def test_a_linf_attack_that_hardly_moves_is_pointed_at(share, found):
    sizes = torch.full((1, N), 0.3 * share)
    assert raised(sizes=sizes) == ({"no-perturbation": found} if found else {})


def test_small_perturbations_are_the_aim_of_minimal_attacks_and_nothing_odd_in_l2():
    small = torch.full((1, N), 0.01)
    assert raised(sizes=small, info=info(minimal=True), eps=float("inf")) == {}
    assert raised(sizes=small, norm="l2") == {}
    assert raised(sizes=torch.zeros(1, N), info=info(minimal=True), eps=float("inf")) == {
        "no-perturbation": "invalid"
    }


def test_a_ball_of_radius_zero_allows_no_move():
    assert raised(sizes=torch.zeros(1, N), eps=0.0) == {}


def test_a_cut_gradient_is_always_suspect():
    assert raised(gradients=("cut",))["cut-gradient"] == "invalid"
    assert raised(gradients=("full", "cut"), clean=torch.zeros(1, N, dtype=torch.bool)) == {
        "cut-gradient": "invalid"
    }


@pytest.mark.parametrize(
    ("agreement", "found"), [(0.79, True), (AGREEMENT, False), (1.0, False), (None, False)]
)
def test_a_substitute_that_disagrees_is_weak(agreement, found):
    assert raised(agreement=agreement) == ({"weak-substitute": "warning"} if found else {})


def test_answers_that_change_with_the_seed_must_be_declared():
    clean = torch.ones(2, N, dtype=torch.bool)
    clean[1, 3] = False
    assert raised(clean=clean) == {"undeclared-randomness": "invalid"}
    assert raised(clean=clean, randomised=True) == {}
    assert red_flags(evidence(clean=clean))[0].evidence == {"samples": 1}


def test_every_flag_explains_itself_to_the_reader():
    for name, text in EXPLANATIONS.items():
        assert len(text) > 80 and text.endswith("."), name
    (flag,) = red_flags(evidence(gradients=("cut",)))
    assert flag.message == EXPLANATIONS["cut-gradient"]


def test_a_threat_model_that_is_not_white_may_leave_the_defense_alone():
    assert not gray_box().white
    assert raised(threat=gray_box()) == {}


def test_a_sample_that_fell_without_a_gradient_is_no_sign_of_masking():
    ones = torch.ones(N, dtype=torch.int64)
    fallen = torch.zeros(1, N, dtype=torch.bool)
    assert raised(counts=counts(zero_gradients=ones)) == {"zero-gradient": "invalid"}
    assert raised(counts=counts(zero_gradients=ones), robust=fallen) == {}

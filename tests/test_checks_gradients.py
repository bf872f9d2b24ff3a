"""Red flags of gradients: zero, cut, no numbers, saturated, never asked for."""

from __future__ import annotations

import pytest
import torch
from planted_evidence import CLASSES, LOGITS, N, counts, evidence, info, raised, red_flags, rows, some

from robustbench_gan.contracts.counts import Counts
from robustbench_gan.contracts.threat import black_box, gray_box, query, seed_known
from robustbench_gan.flags.thresholds import ZERO_GRADIENT_SHARE


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
    right = (torch.arange(N) >= 50)[None]
    assert raised(right=right, counts=counts(zero_gradients=some(50))) == {}
    assert raised(right=right, counts=counts(zero_gradients=some(53)))["zero-gradient"] == "invalid"
    nobody = torch.zeros(1, N, dtype=torch.bool)
    assert raised(right=nobody, robust=nobody, counts=Counts.zeros(N), sizes=torch.zeros(1, N)) == {}


def test_right_under_one_judge_seed_is_attackable():
    right, declared = rows(False, True), {"randomised": True, "threat": seed_known()}
    found = raised(right=right, sizes=torch.zeros(1, N), **declared)
    assert found == {"no-perturbation": "invalid", "single-seed": "note"}


def test_a_sample_that_fell_without_a_gradient_is_no_sign_of_masking():
    ones = torch.ones(N, dtype=torch.int64)
    fallen = torch.zeros(1, N, dtype=torch.bool)
    assert raised(counts=counts(zero_gradients=ones)) == {"zero-gradient": "invalid"}
    assert raised(counts=counts(zero_gradients=ones), robust=fallen) == {}


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


def test_a_cut_gradient_is_always_suspect():
    assert raised(gradients=("cut",))["cut-gradient"] == "invalid"
    nobody = torch.zeros(1, N, dtype=torch.bool)
    assert raised(gradients=("full", "cut"), right=nobody, robust=nobody) == {"cut-gradient": "invalid"}


@pytest.mark.parametrize(("broken", "severity"), [(0, None), (1, "warning"), (5, "warning"), (6, "invalid")])
def test_gradients_that_are_no_numbers(broken, severity):
    found = raised(counts=counts(nan_gradients=some(broken)))
    assert found == ({"not-a-number": severity} if severity else {})


def test_an_attack_that_is_trained_on_next_to_no_gradients_has_learnt_nothing():
    trained = info(trained=True)
    each = torch.full((N,), 200)
    for zeros, found in ((190, {"zero-gradient": "invalid"}), (189, {})):
        told = counts(gradients=each, zero_gradients=torch.full((N,), zeros))
        assert raised(info=trained, counts=told) == found
        assert raised(counts=told) == {}  # an attack that is not trained moved each sample by the others


def test_a_loss_is_saturated_where_the_answer_is_sure_and_the_gradient_has_vanished():
    sure = torch.zeros(N, CLASSES)
    sure[:, 3] = 40.0
    tiny = counts(tiny_gradients=some(6))
    assert raised(logits=sure, counts=tiny) == {"saturated-loss": "warning"}
    assert raised(logits=sure, counts=counts(tiny_gradients=some(5))) == {}
    assert raised(logits=sure) == {}  # sure, but with a gradient
    assert raised(counts=tiny) == {}  # vanished, but not from being sure
    assert raised(logits=sure, counts=tiny, robust=torch.zeros(1, N, dtype=torch.bool)) == {}
    half = counts(flat_losses=some(6))  # of the gradient is left
    assert raised(logits=sure, counts=half) == {"saturated-loss": "note"}
    assert raised(logits=sure, counts=counts(flat_losses=some(5))) == {}
    assert raised(counts=counts(flat_losses=some(6))) == {}
    sure[:, 3] = 15.0  # within 3e-6 of 1 only
    assert raised(logits=sure, counts=tiny) == {}


@pytest.mark.parametrize(
    ("changed", "severity"),
    [
        ({}, "invalid"), ({"threat": gray_box()}, "invalid"), ({"threat": black_box()}, "warning"),
        ({"info": info("scores"), "threat": query()}, "warning"),
    ],
)  # fmt: skip
def test_probabilities_are_no_logits(changed, severity):
    assert raised(logits=LOGITS.softmax(dim=1), **changed) == {"probabilities-as-logits": severity}
    for honest in (LOGITS.log_softmax(dim=1), LOGITS.sigmoid(), LOGITS.softmax(dim=1) + 1e-4):
        assert raised(logits=honest, **changed) == {}

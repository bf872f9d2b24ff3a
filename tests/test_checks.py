"""Red flags of a cell: each raised by its own evidence, at its threshold, and by nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from planted_evidence import N, evidence, info, parameters_flagged, question, raised, red_flags

from robustbench_gan.base.errors import DisconnectedGradient, NotANumber
from robustbench_gan.cell.craft import AttackFault
from robustbench_gan.contracts.threat import gray_box
from robustbench_gan.flags import CATALOGUE
from robustbench_gan.flags.refusals import flags_of_error, undefined_losses


def test_an_honest_attack_raises_nothing():
    assert raised() == {}


# ---- sizes


@pytest.mark.parametrize(
    ("share", "found"), [(0.0, "invalid"), (0.001, "warning"), (0.49, "warning"), (0.51, None), (1.0, None)]
)
def test_a_linf_attack_that_hardly_moves_is_pointed_at(share, found):
    sizes = torch.full((1, N), 0.3 * share)
    assert raised(sizes=sizes) == ({"no-perturbation": found} if found else {})


def test_small_perturbations_are_the_aim_of_minimal_attacks_and_nothing_odd_in_l2():
    small = torch.full((1, N), 0.01)
    assert raised(sizes=small, info=info(minimal=True), eps=math.inf) == {}
    assert raised(sizes=small, norm="l2") == {}
    assert raised(sizes=torch.zeros(1, N), info=info(minimal=True), eps=math.inf) == {
        "no-perturbation": "invalid"
    }


def test_a_ball_of_radius_zero_allows_no_move():
    assert raised(sizes=torch.zeros(1, N), eps=0.0) == {}


# ---- strength and parameters


def test_nothing_stands_where_every_image_can_be_grey():
    half, full = {"eps": 0.5, "sizes": torch.full((1, N), 0.5)}, {"steps": 40}
    assert raised(**half, parameters=full) == {"robust-at-half": "invalid"}
    assert raised(**half) == {"robust-at-half": "warning"}  # a single step may overshoot
    by_chance = (torch.arange(N) < 16)[None]  # 0.1 + the larger of 0.05 and two standard errors, 0.06
    assert raised(**half, parameters=full, robust=by_chance) == {}
    assert "robust-at-half" in raised(**half, parameters=full, robust=(torch.arange(N) < 17)[None])
    for elsewhere in (
        {"threat": gray_box()}, {"norm": "l2"}, {"targeted": True}, {"info": info("scores")},
        {"info": info(trained=True)}, {"eps": 0.49},
    ):  # fmt: skip
        assert raised(**{**half, "parameters": full, **elsewhere}) == {}


@pytest.mark.parametrize(
    ("parameters", "faults"),
    [
        ({"steps": 20, "step": 0.0}, None),
        ({"steps": 19, "step": 0.0}, {"steps"}),
        ({"steps": 40, "step": 0.31}, {"steps", "step", "eps"}),
        ({"steps": 40, "step": 0.3}, None),
        ({"steps": 40, "step": 0.007}, {"steps", "step", "eps"}),
        ({"steps": 30, "step": 0.01}, None),  # just reaches eps
        ({"steps": 40, "restarts": 5, "random_start": False}, {"restarts", "random_start"}),
        ({"steps": 40, "restarts": 5, "random_start": True}, None),
        ({"lr": 10.0}, {"lr"}),
        ({"lr": 0.01}, None),
        ({}, None),
    ],
)
def test_weak_hyper_parameters(parameters, faults):
    found = parameters_flagged(parameters=parameters)
    assert [f.id for f in found] == (["weak-hyper-parameters"] if faults else [])
    if faults:
        assert set(found[0].evidence) == faults and found[0].severity == "warning"


def test_hyper_parameters_of_other_attacks_mean_something_else():
    few = {"steps": 5, "step": 0.001}
    assert parameters_flagged(parameters=few, info=info("scores")) == []
    assert parameters_flagged(parameters=few, info=info(trained=True)) == []
    assert parameters_flagged(parameters=few, info=info(minimal=True), eps=math.inf) == []
    assert parameters_flagged(parameters={"steps": 10}, norm="l2") == []


@pytest.mark.parametrize(
    ("loss", "targeted", "needed"),
    [("dlr", False, 3), ("dlr", True, 4), ("dlr-targeted", False, 4), ("ce", True, 2)],
)
def test_dlr_needs_classes(loss, targeted, needed):
    for classes in range(2, 6):
        found = undefined_losses(question(parameters={"loss": loss}, targeted=targeted), classes)
        assert [(f.id, f.severity) for f in found] == (
            [("dlr-undefined", "note")] if classes < needed else []
        )


# ---- failures, and the catalogue


def test_failures_have_names():
    named = [DisconnectedGradient("x"), AttackFault("x", "budget-violation"), NotANumber("x")]
    found = [flags_of_error(error) for error in named]
    assert [[f.id for f in flags] for flags in found] == [
        ["disconnected-gradient"], ["budget-violation"], ["not-a-number"],
    ]  # fmt: skip
    stranger = RuntimeError("x")
    stranger.flag = "cut-gradient"  # type: ignore[attr-defined]
    assert [flags_of_error(e) for e in (AttackFault("x"), RuntimeError("x"), stranger)] == [[], [], []]


def test_a_flag_says_what_was_seen():
    (flag,) = red_flags(evidence(gradients=("cut",)))
    assert flag.message == CATALOGUE["cut-gradient"].summary

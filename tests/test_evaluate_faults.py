"""Planted faults of attacks and defenses are found by the judge."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch
from judged_cells import N
from planted_plugins import cell, flags, installed, judged  # noqa: F401

from robustbench_gan.base import stopping
from robustbench_gan.cell import context
from robustbench_gan.cell.craft import AttackFault, check_examples
from robustbench_gan.nouns.budget import Budget


def test_a_defense_that_rejects_everything_scores_exactly_zero(shop):
    result = cell(shop, defenses="rejectall", attacks=["noise"])
    outcomes = judged(result)
    assert outcomes.clean == outcomes.robust == outcomes.accepted == ["0" * N]
    assert result.accuracy("robust").value == 0
    assert result.controls["classifier"] == 1.0  # it is the defense that fails, not the classifier


@pytest.mark.parametrize("gradient", ["full", "auto"])
@pytest.mark.parametrize("threat", ["white-box"])
def test_a_detached_purifier_is_a_failed_attack_in_white_box(shop, threat, gradient):
    result = cell(shop, defenses="detached", attacks="pgd:steps=3", threats=threat, gradient=gradient)
    assert result.status == "failed" and result.outcomes is None
    assert result.reason.startswith("DisconnectedGradient")


def test_a_detached_purifier_can_be_attacked_under_bpda(shop):
    result = cell(shop, defenses="detached", attacks="pgd:steps=3", gradient="bpda", eps=0.2)
    assert result.status == "ok"
    assert judged(result).robust == judged(cell(shop, attacks="pgd:steps=3", eps=0.2)).robust
    assert result.accuracy("robust").value < 0.5


@pytest.mark.parametrize("attack", ["same"])
def test_an_attack_that_returns_its_input_is_suspect(shop, attack):
    result = cell(shop, attacks=attack)
    assert result.status == "suspect" and flags(result) == {"no-perturbation": "invalid"}
    assert judged(result).robust == ["1" * N]
    assert not result.counts


FAULTS = {
    "over": "leave the linf ball",
    "nan": "1 examples hold NaN",
    "wrong-shape": f"returned ({N - 1}, 1, 4, 4) torch.float32, expected ({N}, 1, 4, 4)",
    "wrong-dtype": f"returned ({N}, 1, 4, 4) torch.float64",
    "no-tensor": "returned NoneType",
    "edits": "edited its input in place",
}


@pytest.mark.parametrize("attack", FAULTS)
def test_what_cannot_be_judged_fails_and_counts_for_nobody(shop, attack):
    result = cell(shop, attacks=attack)
    assert result.status == "failed" and result.outcomes is None
    assert result.accuracy("robust") is None and not result.counts
    assert FAULTS[attack] in result.reason and result.reason.startswith("AttackFault")


def test_outside_the_box_fails_though_inside_the_ball(shop):
    result = cell(shop, attacks="out-of-box", eps=1.0)
    assert result.status == "failed" and "1 examples leave the box [0, 1]" in result.reason


def test_the_last_sample_of_the_last_group_is_checked_as_the_first(shop):
    result = cell(shop, attacks="out-of-box", eps=1.0, batch_size=7)
    assert result.status == "failed"


@pytest.mark.parametrize("norm", ["l0", "l1", "l2", "linf"])
def test_budget_and_box_are_checked_with_the_slack_of_rounding_and_no_more(norm):
    eps = 2.0 if norm == "l0" else 0.25
    x = torch.full((3, 1, 4, 4), 0.5)
    legal, illegal = x.clone(), x.clone()
    if norm == "l0":
        legal[:, :, 0, :2] = 1.0
        illegal[1, :, 0, :3] = 1.0
    else:
        legal[:, :, 0, 0] += 0.25
        illegal[1, :, 0, 0] += 0.2501
    check_examples(legal, x, x.clone(), Budget(norm, eps))
    with pytest.raises(AttackFault, match=f"1 examples leave the {norm} ball"):
        check_examples(illegal, x, x.clone(), Budget(norm, eps))


def test_an_exception_is_a_failed_cell_with_its_reason_and_its_place(shop):
    result = cell(shop, attacks="crashes")
    assert (result.status, result.reason) == ("failed", "ArithmeticError: planted crash")
    assert any(
        frame.startswith("planted_attacks.py:") and "in crashes" in frame for frame in result.traceback
    )


def test_a_defense_that_cannot_be_trained_fails_its_cells_alone(shop):
    result = cell(shop, defenses="failstofit")
    assert result.status == "failed" and result.reason == "ArithmeticError: planted: no convergence"
    assert cell(shop).status == "ok"


def test_ctrl_c_is_no_failure(shop):
    with pytest.raises(KeyboardInterrupt):
        cell(shop, attacks="interrupted")


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("exit", "SystemExit: 0"), ("exit-3", "SystemExit: 3"), ("interrupt", "KeyboardInterrupt"),
        ("base", "BaseException: base"), ("generator", "GeneratorExit"), ("stop", "StopIteration"),
        ("cancel", "CancelledError"), ("memory", "MemoryError"), ("usage", "UsageError: planted: cannot be"),
        ("recursion", "RecursionError: "), ("mute", "Mute: (its text cannot be made"),
        ("half", r"RuntimeError: half \udcff \x1b[2J"), ("huge", "RuntimeError: AAA"),
    ],
)  # fmt: skip
def test_whatever_an_attack_raises_is_the_failure_of_its_cell(shop, what, reason):
    with stopping.listening():  # as a command does; no signal arrives
        result = cell(shop, attacks=f"raises:what={what}")
    assert result.status == "failed" and result.outcomes is None
    assert result.reason.startswith(reason) and len(result.reason) < 2200 and len(result.traceback) < 60


@pytest.mark.parametrize("where", ["init", "fit", "purify"])
def test_a_defense_that_exits_fails_its_cell(shop, where):
    result = cell(shop, defenses=f"exitswhereasked:where={where}")
    assert (result.status, result.reason) == ("failed", "SystemExit: 0")


def test_a_swallowed_interrupt_is_raised_after_the_call_and_nothing_is_recorded(shop, monkeypatch):
    real, timer = context.Run.call, threading.Timer(0.1, signal.raise_signal, [signal.SIGTERM])

    def call(*given):  # the signal finds the attack at work, however long it took to get there
        if timer.ident is None:
            timer.start()
        return real(*given)

    monkeypatch.setattr(context.Run, "call", call)
    with stopping.listening():
        started = time.monotonic()
        with pytest.raises(stopping.Stopped) as stopped:
            cell(shop, attacks="clings:seconds=0.6")
        stopping.let_go()
    assert stopped.value.number == signal.SIGTERM and time.monotonic() - started > 0.6


def test_a_copy_of_the_process_goes_no_further_than_its_attack(shop, tmp_path):
    home = os.getpid()
    result = cell(shop, attacks="leaves-a-copy")
    (tmp_path / str(os.getpid())).touch()  # a second run would come here as well
    assert result.status == "ok" and os.getpid() == home
    _, status = os.wait()
    assert os.waitstatus_to_exitcode(status) == stopping.COPY
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [str(home)]


def test_zero_gradients_are_suspect_and_bpda_sees_through_them(shop):
    full = cell(shop, defenses="zerogradient", gradient="full", attacks="pgd:steps=3", eps=0.2)
    assert full.status == "suspect" and flags(full)["zero-gradient"] == "invalid"
    auto = cell(shop, defenses="zerogradient", gradient="auto", attacks="pgd:steps=3", eps=0.2)
    assert auto.status == "ok" and auto.gradients == ["full", "bpda"]
    assert auto.accuracy("robust").value < 0.5


def test_a_white_box_attack_that_never_calls_the_system_is_suspect(shop):
    result = cell(shop, attacks="never-calls", defenses="noisy")
    assert result.status == "suspect" and flags(result)["defense-not-attacked"] == "invalid"


def test_a_gradient_attack_that_asks_for_no_gradient_is_suspect(shop):
    result = cell(shop, attacks="no-backward")
    assert result.status == "suspect" and flags(result)["no-backward"] == "invalid"


def test_a_cut_gradient_is_suspect_with_a_high_number(shop):
    cut = cell(shop, attacks="fgsm", gradient="cut", eps=0.3)
    real = cell(shop, attacks="fgsm", gradient="full", eps=0.3)
    assert cut.status == "suspect" and flags(cut)["cut-gradient"] == "invalid"
    assert cut.accuracy("robust").value == 1.0 and real.accuracy("robust").value == 0.0


def test_a_defense_that_answers_nan_fails(shop):
    result = cell(shop, defenses="answersnan", attacks="no-backward", eps=0.3)
    assert result.status == "failed" and "answered NaN" in result.reason and result.outcomes is None


def test_a_defense_that_hides_its_randomness_is_flagged(shop):
    hidden = cell(shop, defenses="secretlyrandom", judge_seeds=2, attacks="pgd:steps=2")
    assert hidden.status == "suspect" and flags(hidden)["undeclared-randomness"] == "invalid"
    declared = cell(shop, defenses="noisy", judge_seeds=2, attacks="pgd:steps=2")
    assert "undeclared-randomness" not in flags(declared)

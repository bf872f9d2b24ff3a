"""A cell in a process of its own: the same answer, and an end to what never ends."""

from __future__ import annotations

import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
from planted_plugins import cell, installed, planned, workshop  # noqa: F401
from test_resume import files, start

from robustbench_gan.base.errors import Fatal
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.engine.execute import execute
from robustbench_gan.engine.executors import evaluate_apart
from robustbench_gan.leaderboard import load_results


def apart(where, seconds=60.0, **asked):
    (only,) = planned(where, **asked)
    return evaluate_apart(only, where, Settings(), seconds=seconds)


def found(result):
    """All that a result says but what a clock or a memory meter measured."""
    return result.model_dump(exclude={"seconds", "peak_memory_mb", "estimate_seconds"})


@pytest.mark.parametrize(
    "asked",
    [
        {"attacks": "pgd:steps=3", "defenses": "noisy", "judge_seeds": 2},
        {"attacks": "fgsm", "classifiers": "quick", "threats": "black-box:model=quick,rounds=2"},
        {"attacks": "fgsm", "defenses": "detached"},
    ],
    ids=["random", "black-box", "failed"],
)
def test_a_cell_apart_finds_what_it_finds_at_home(tmp_path, asked):
    ours = apart(workshop(tmp_path), **asked)
    assert found(ours) == found(cell(workshop(tmp_path), **asked))


def test_what_cells_share_is_trained_once_and_stored(tmp_path):
    where = workshop(tmp_path)
    result = apart(where, 60, attacks="fgsm", classifiers="quick")
    assert result.status == "ok"
    before = files(tmp_path)
    (only,) = planned(where, attacks="noise", classifiers="quick")
    again = evaluate_apart(only, where, Settings(), seconds=60)
    assert again.status == "ok" and files(tmp_path) == before and len(before) == 1


def test_what_is_not_applicable_needs_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr("multiprocessing.get_context", lambda kind: pytest.fail("a process was asked for"))
    assert apart(workshop(tmp_path), threats="gray-box").status == "not applicable"


def test_a_training_that_takes_its_process_with_it_fails_the_cells_that_need_it(tmp_path, monkeypatch):
    where = workshop(tmp_path)
    cells = planned(where, attacks=["noise", "fgsm"], defenses="diesintraining")
    first = evaluate_apart(cells[0], where, Settings(), seconds=0.001)  # training does not count
    assert (first.status, first.outcomes) == ("failed", None)
    assert "made its defense" in first.reason and "ended by signal 11" in first.reason
    monkeypatch.setattr("multiprocessing.get_context", lambda kind: pytest.fail("it was tried again"))
    assert evaluate_apart(cells[1], where, Settings(), seconds=60).reason == first.reason


@pytest.mark.parametrize(
    "then", ["hangs", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("return", "dies"))]
)
def test_what_an_attack_leaves_behind_ends_with_its_cell(tmp_path, then):
    pids = tmp_path / "pids"
    own = subprocess.Popen(["sleep", "300"])  # of somebody else, and not to be touched
    try:
        seconds = 1.5 if then == "hangs" else 60
        result = apart(workshop(tmp_path), seconds, attacks=f"strays:where='{pids}',then={then}")
        assert result.status == ("ok" if then == "return" else "failed")
        strays = [int(pid) for pid in pids.read_text().split()]
        assert len(strays) == 3 and all(map(gone, strays)) and own.poll() is None
    finally:
        own.kill()
        own.wait()


def test_a_hung_cell_fails_with_its_seconds_and_the_rest_goes_on(tmp_path):
    where = workshop(tmp_path)
    cells = planned(where, attacks=["noise", "control-hang"])
    results = execute(
        cells, where, Settings(), tmp_path / "out", on_step=lambda step: None, on_result=lambda *of: None,
        run_cell=lambda item, *rest: (
            partial(evaluate_apart, seconds=0.3) if "hang" in item.cell.attack.name else evaluate_cell
        )(item, *rest),
        apart=True,
    )  # fmt: skip
    assert [r.status for r in results] == ["ok", "failed"]
    assert results[1].reason == "killed after 0.3 s, the limit of --cell-timeout"
    assert results[1].control and results[1].outcomes is None
    assert {r.status for r in load_results(tmp_path / "out")} == {"ok", "failed"}


def test_a_process_that_dies_fails_its_cell_alone(tmp_path):
    result = apart(workshop(tmp_path), attacks="dies")
    assert result.status == "failed"
    assert "ended by signal 9" in result.reason and "before it had a result" in result.reason


@pytest.mark.nightly
def test_what_ends_a_run_ends_it_from_a_process_as_well_and_what_does_not_does_not(tmp_path):
    interrupted = apart(workshop(tmp_path), attacks="raises:what=interrupt")
    assert (interrupted.status, interrupted.reason) == ("failed", "KeyboardInterrupt")
    (tmp_path / "artifacts" / "file").parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "artifacts" / "file").touch()
    with pytest.raises(Fatal, match="cannot write"):
        apart(workshop(tmp_path / "artifacts" / "file"), classifiers="quick")


def children(pid):
    """Processes that a process has started: all but the resource tracker, which ends with it."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in listed if "resource_tracker" not in Path(f"/proc/{one}/cmdline").read_text()]


def gone(pid):
    """Ended, though perhaps nobody has asked yet how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGKILL, id="killed"),
        pytest.param(signal.SIGINT, id="interrupted", marks=pytest.mark.nightly),
        pytest.param(signal.SIGHUP, id="hung-up", marks=pytest.mark.nightly),
    ],
)  # fmt: skip
def test_whoever_ends_the_run_ends_the_cell_and_what_is_finished_stays(tmp_path, installed, how):  # noqa: F811
    pids = tmp_path / "pids"
    hung = f"strays:where='{pids}',then=hangs"
    run = start(tmp_path, installed, "run", "--attack", "noise", "--attack", hung, "--threat", "white-box",
                "--defense", "none", "--cell-timeout", "600")  # fmt: skip
    out, deadline = tmp_path / "run" / "out", time.monotonic() + 600
    while time.monotonic() < deadline and not list(out.rglob("noise*.json")):
        time.sleep(0.05)
    while time.monotonic() < deadline and not pids.exists():
        time.sleep(0.05)
    time.sleep(0.2)
    (child,) = children(run.pid)
    strays = [int(pid) for pid in pids.read_text().split()]
    run.send_signal(how)
    run.communicate(timeout=300)
    assert run.returncode == (-how if how == signal.SIGKILL else 128 + how)
    ended = time.monotonic() + 20
    while time.monotonic() < ended and not all(map(gone, (child, *strays))):
        time.sleep(0.05)
    assert all(map(gone, (child, *strays)))
    assert [r.status for r in load_results(out)] == ["ok"]


@pytest.mark.nightly
def test_a_users_own_file_runs_apart_as_well(tmp_path, installed):  # noqa: F811
    import torch
    from safetensors.torch import save_file

    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\ndef make(shape, classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], classes))\n"
    )
    save_file({"1.weight": torch.ones(3, 16), "1.bias": torch.arange(3.0)}, tmp_path / "mine.safetensors")
    mine = ["--classifier", str(tmp_path / "mine.py:make"), "--weights", str(tmp_path / "mine.safetensors"),
            "--defense", "none", "--attack", "noise", "--threat", "white-box"]  # fmt: skip
    results = []
    for name, more in (("home", []), ("apart", ["--cell-timeout", "300"])):
        run = start(tmp_path, installed, name, *mine, *more)
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors
        results.append([found(r) for r in load_results(tmp_path / name / "out")])
    assert len(results[0]) == 1 and results[0] == results[1]

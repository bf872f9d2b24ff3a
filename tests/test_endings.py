"""Code that ends the process where it is imported, made or asked: who needs it fails, and nobody else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from planted_endings import ENDINGS, ENDS_IMPORT, ENTRY_POINTS
from planted_plugins import DEFAULTS, also_installed, cell, installed, planned, workshop  # noqa: F401

from robustbench_gan.base import trial
from robustbench_gan.base.errors import UsageError
from robustbench_gan.cli.installed import catalogue
from robustbench_gan.engine.layout import lay_out
from robustbench_gan.engine.matrix import Matrix
from robustbench_gan.engine.run import run
from robustbench_gan.leaderboard import load_results
from robustbench_gan.nouns import registry

endings = also_installed("endings", ENTRY_POINTS, files={"planted_ends_import.py": ENDS_IMPORT})


@pytest.mark.parametrize("how", ENDINGS)
def test_a_constructor_that_ends_the_process_costs_its_cells(tmp_path, how):
    where = workshop(tmp_path)
    honest = cell(where, defenses="untrained")
    assert honest.status == "ok", honest.reason
    result = cell(where, defenses=f"ends-made:how={how}")
    assert result.status == "failed" and result.reason.startswith(
        f"Died: it ends the process {ENDINGS[how][1]}"
    )


@pytest.mark.parametrize(
    "asked",
    [
        {"defenses": "ends-made:where=real"}, {"defenses": "ends-made:where=asked"}, {"classifiers": "ends-model"},
    ],
)  # fmt: skip
def test_so_does_one_that_ends_it_later(tmp_path, asked):
    result = cell(workshop(tmp_path), **asked)
    assert result.status == "failed" and "it ends the process with exit code 0" in result.reason


@pytest.mark.parametrize("asked", [{"defenses": "ends-made:where=asked"}, {"attacks": "ends-asked"}])
def test_planning_asks_nothing_that_ends_the_process(tmp_path, asked):
    (only,) = planned(workshop(tmp_path), **asked)
    assert only.reason == ""


def test_an_import_that_ends_the_process_is_the_plugins_error():
    with pytest.raises(
        UsageError, match=r"'ends-imported' .* fails to import: Died: it ends .* by signal 11"
    ):
        registry.load("attacks", "ends-imported")
    (listed,) = [row for row in catalogue("attacks") if row["name"] == "ends-imported"]
    assert "by signal 11" in listed["error"]


def test_a_trial_leaves_nothing_behind_and_knows_what_lives(capfd):
    before = len(list(Path("/proc/self/fd").iterdir()))
    trial.tried("lives", lambda: print("said twice"))
    trial.tried("raises", lambda: 1 / 0)
    with pytest.raises(trial.Died, match="exit code 3"):
        trial.tried("dies", lambda: os._exit(3))
    assert len(list(Path("/proc/self/fd").iterdir())) == before and capfd.readouterr().out == ""


@pytest.mark.parametrize(("by", "reason"), [("python", "MemoryError"), ("torch", "RuntimeError: ")])
def test_an_attack_that_fills_the_memory_fails_alone(tmp_path, by, reason):
    where = workshop(tmp_path)
    result = cell(where, attacks=f"fills:by={by}")
    assert result.status == "failed" and result.reason.startswith(reason)
    assert cell(where).status == "ok"


def test_a_disk_that_is_full_ends_the_run_with_1_and_loses_nothing(tmp_path, monkeypatch):
    where, out, there = workshop(tmp_path), tmp_path / "out", os.fsync
    cell(where)  # what is trained is stored
    done = iter([there, there])  # the test of the directory, and one record

    def full(file: int) -> None:
        next(done, None) or _refuse()
        there(file)

    def _refuse() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    asked = Matrix.model_validate({**DEFAULTS, "attacks": ["noise", "fgsm"]})
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(
            UsageError, match=r"No space left on device.*everything finished before is kept"
        ) as ended:
            run(asked, lay_out(asked, where), where, out=out, batch_size=200, as_json=False)
    assert ended.value.code == 1 and [r.status for r in load_results(out)] == ["ok"]
    assert run(asked, lay_out(asked, where), where, out=out, batch_size=200, as_json=False) == 0
    assert len(load_results(out)) == 2


def test_who_holds_the_process_after_a_signal_is_abandoned(tmp_path):
    code = f"""
import os, pathlib, signal, time
from robustbench_gan.base import stopping
stopping.GRACE = 0.3
with stopping.listening(), stopping.closing(pathlib.Path({str(tmp_path / "closed")!r}).touch):
    for _ in range(100):
        try:
            os.kill(os.getpid(), signal.SIGTERM) if not _ else time.sleep(10)
        except KeyboardInterrupt:
            pass
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 128 + signal.SIGTERM and "abandoned; what was finished is kept" in ended.stderr
    assert (tmp_path / "closed").exists()


def test_what_takes_long_is_called_without_a_trial(monkeypatch):
    monkeypatch.setattr(trial, "LIMIT", 0.1)
    trial.tried("long", lambda: __import__("time").sleep(60))

"""A run that was killed goes on where it stopped, and ends where an undisturbed one ends."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from planted_plugins import environment, installed  # noqa: F401

from robustbench_gan.leaderboard import load_results, markdown

MATRIX = """
name = "small"
datasets = ["grey"]
classifiers = ["quick"]
defenses = ["none", "noisy", "detached"]
attacks = ["noise", "fgsm", "pgd:steps=5,restarts=2"]
threats = ["black-box:model=quick,rounds=2", "white-box", "seed-known"]
eps = [0.1]
samples = 20
judge_seeds = 2
eot = 2
"""


def start(root: Path, site: Path, name: str, *more: str) -> subprocess.Popen[str]:
    """`rbg evaluate` on the matrix, with its own cache and results below root/name."""
    (root / "matrix.toml").write_text(MATRIX)
    # A job in the background starts deaf to Ctrl-C, one of nohup's to hanging up, and so does what they start.
    listen = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    )
    command = [
        sys.executable, "-c", f"{listen}; from robustbench_gan.cli import main; main()", "evaluate",
    ]  # fmt: skip
    command += [str(root / "matrix.toml"), "--out", str(root / name / "out"), "--device", "cpu", *more]
    return subprocess.Popen(
        command, env=environment(site, root / name / "cache"), text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def files(directory: Path) -> dict[str, tuple[int, int]]:
    """Every finished file below a directory: when it was written, and its inode."""
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in directory.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def outcomes(out: Path) -> dict[str, object]:
    """What every cell found, without what a clock measured."""
    return {r.fingerprint: (r.status, r.reason, r.outcomes, r.flags, r.weights) for r in load_results(out)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, installed):  # noqa: F811
    root = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    run = start(root, installed, "whole")
    output, errors = run.communicate(timeout=120)
    assert run.returncode == 1, errors  # `detached` fails in white-box, and says so
    return root, time.monotonic() - began, output


@pytest.mark.slow
def test_a_second_run_recomputes_nothing(undisturbed, installed):  # noqa: F811
    root, _, _ = undisturbed
    ok = [
        p
        for p in (root / "whole" / "out" / "results").rglob("*.json")
        if '"status": "failed"' not in p.read_text()
    ]
    before, cache = {p: p.stat().st_mtime_ns for p in ok}, files(root / "whole" / "cache")
    assert len(ok) > 10 and cache
    run = start(root, installed, "whole")
    run.communicate(timeout=120)
    assert run.returncode == 1
    assert {p: p.stat().st_mtime_ns for p in ok} == before
    assert files(root / "whole" / "cache") == cache


@pytest.mark.parametrize(
    "kills", [pytest.param(2, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.figures)]
)
def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(undisturbed, tmp_path, installed, kills):  # noqa: F811
    root, seconds, _ = undisturbed
    moments = random.Random(20)
    for _ in range(kills):
        run = start(tmp_path, installed, "killed")
        time.sleep(moments.uniform(0.4, 0.95) * seconds)
        run.kill()  # nothing is caught, nothing is cleaned up
        run.communicate()
    run = start(tmp_path, installed, "killed")
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 1, errors
    whole, killed = root / "whole" / "out", tmp_path / "killed" / "out"
    assert outcomes(killed) == outcomes(whole)
    pages = [markdown(load_results(out), times=False) for out in (whole, killed)]
    assert pages[0] == pages[1] and "noisy" in pages[0]


@pytest.mark.slow
def test_a_run_killed_between_its_first_results_keeps_them(undisturbed, tmp_path, installed):  # noqa: F811
    run = start(tmp_path, installed, "killed")
    results = tmp_path / "killed" / "out" / "results"
    deadline = time.monotonic() + 60
    while not list(results.rglob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.002)
    run.kill()
    run.communicate()
    kept = files(results)
    assert kept  # each is whole: a record is written at once or not at all
    for name in kept:
        assert json.loads((results / name).read_text())["schema_version"] == 2
    run = start(tmp_path, installed, "killed")
    run.communicate(timeout=120)
    after = files(results)
    ok = [name for name in kept if '"status": "failed"' not in (results / name).read_text()]
    assert ok and {name: after[name] for name in ok} == {name: kept[name] for name in ok}
    assert outcomes(tmp_path / "killed" / "out") == outcomes(undisturbed[0] / "whole" / "out")


@pytest.mark.slow
def test_a_plugin_that_swallows_every_interrupt_does_not_outlive_the_second(tmp_path, installed):  # noqa: F811
    run = start(tmp_path, installed, "stopped", "--attack", "noise", "--attack", f"clings:where='{tmp_path / 'at-work'}'",
                "--defense", "none", "--threat", "white-box")  # fmt: skip
    out = tmp_path / "stopped" / "out"
    deadline = time.monotonic() + 60
    while not (tmp_path / "at-work").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    for _ in range(2):
        time.sleep(1)
        os.kill(run.pid, signal.SIGTERM)
    began = time.monotonic()
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM and time.monotonic() - began < 8, errors
    assert "did not let go" in errors and "Traceback" not in errors
    assert [str(r.cell.attack) for r in load_results(out)] == ["noise"]
    assert "noise" in (out / "README.md").read_text()


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_exits_130(tmp_path, installed):  # noqa: F811
    # The last cell waits for a minute; the signal finds it at work.
    run = start(tmp_path, installed, "stopped", "--attack", "noise", "--attack", "fgsm", "--attack", "waits",
                "--defense", "none", "--threat", "white-box")  # fmt: skip
    results = tmp_path / "stopped" / "out" / "results"
    deadline = time.monotonic() + 60
    while len(list(results.rglob("*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 130, errors
    assert "interrupted" in errors and "Traceback" not in errors
    assert len(load_results(tmp_path / "stopped" / "out")) == 2
    page = (tmp_path / "stopped" / "out" / "README.md").read_text()
    assert "fgsm" in page and "waits" not in page

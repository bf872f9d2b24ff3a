"""How a run of the command line ends: its exit code, signals, full disks, results that vanish, time limits."""

from __future__ import annotations

import json
import signal

import pytest
from called_cli import SMALL, rbg_in_an_empty_directory, refused  # noqa: F401 - fixtures
from planted_plugins import installed  # noqa: F401

from robustbench_gan.base.errors import Fatal
from robustbench_gan.leaderboard import load_results


def test_the_exit_code_says_whether_a_cell_failed(rbg):
    assert rbg("evaluate", *SMALL, "--out", "a").exit_code == 0
    suspect = rbg("evaluate", *SMALL, "--attack", "same", "--out", "a")
    assert suspect.exit_code == 0 and "suspect" in suspect.stdout
    failed = rbg("evaluate", *SMALL, "--attack", "crashes", "--attack", "noise", "--out", "a")
    assert failed.exit_code == 1 and "ArithmeticError: planted crash" in failed.output


def test_the_matrix_goes_on_after_a_failure_and_says_where_it_failed(rbg, tmp_path):
    assert rbg("evaluate", *SMALL, "--attack", "crashes", "--attack", "noise", "--out", "out").exit_code == 1
    found = {str(r.cell.attack): r for r in load_results(tmp_path / "here" / "out")}
    assert {name: r.status for name, r in found.items()} == {"fgsm": "ok", "crashes": "failed", "noise": "ok"}
    assert found["crashes"].traceback[-1].startswith("planted_attacks.py:")
    page = (tmp_path / "here" / "out" / "README.md").read_text()
    assert "planted crash" in page


def test_ctrl_c_is_130_and_keeps_what_is_finished(rbg, tmp_path):
    result = rbg("evaluate", *SMALL, "--attack", "interrupted", "--out", "out")
    assert result.exit_code == 130 and "interrupted" in result.stderr and "Traceback" not in result.stderr
    assert [str(r.cell.attack) for r in load_results(tmp_path / "here" / "out")] == ["fgsm"]
    assert (tmp_path / "here" / "out" / "README.md").exists()


def test_results_that_vanish_while_it_runs_are_said(rbg, tmp_path):
    result = rbg("evaluate", *SMALL, "--attack", "tidies:where=out", "--attack", "noise", "--out", "out")
    assert result.exit_code == 1
    assert "1 of 3 results are not in out any more" in result.stderr.replace("\n", " ")
    assert {str(r.cell.attack) for r in load_results(tmp_path / "here" / "out")} == {
        "noise",
        "tidies:link='',where=out",
    }


def test_nothing_is_written_through_a_link_that_appears_while_it_runs(rbg, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    tidies = f"tidies:where=out/results,link='{elsewhere}'"
    result = rbg("evaluate", *SMALL, "--attack", tidies, "--attack", "noise", "--out", "out")
    assert result.exit_code == 1 and "out/results is a symbolic link" in result.stderr
    assert list(elsewhere.iterdir()) == []
    refused(rbg("evaluate", *SMALL, "--out", "out"), "out/results", "symbolic link")


def test_a_disk_that_fills_up_under_way_is_said_and_no_bad_usage(rbg, monkeypatch):
    from robustbench_gan.engine import execute

    def full(path, text):
        raise Fatal(f"cannot write {path}: No space left on device.")

    monkeypatch.setattr(execute, "write_text_atomically", full)
    result = rbg("evaluate", *SMALL, "--out", "out")
    assert result.exit_code == 1 and "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr


def test_leftovers_of_killed_writes_are_removed(rbg, tmp_path):
    left = [tmp_path / "here" / "out" / where / f".tmp-{'0a' * 16}" for where in ("", "results/grey")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert rbg("evaluate", *SMALL, "--out", "out").exit_code == 0
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals_end_a_run_as_ctrl_c_does(rbg, tmp_path, number, code):
    result = rbg("evaluate", *SMALL, "--attack", f"interrupted:number={int(number)}", "--out", "out")
    assert result.exit_code == code and f"ended by {number.name}" in result.stderr
    assert "Traceback" not in result.stderr and (tmp_path / "here" / "out" / "README.md").exists()
    assert [str(r.cell.attack) for r in load_results(tmp_path / "here" / "out")] == ["fgsm"]


def test_cells_above_the_time_limit_are_not_run_and_the_table_says_so(rbg, tmp_path):
    result = rbg("evaluate", *SMALL, "--max-cell-minutes", "0.0000001", "--json", "--out", "out")
    (row,) = json.loads(result.stdout)
    assert result.exit_code == 0 and row["status"] == "not run" and row["estimate_seconds"] > 0
    assert "estimated at" in row["reason"] and row["robust_accuracy"] is None
    assert "not run" in (tmp_path / "here" / "out" / "README.md").read_text()


def test_strict_exits_1_for_an_invalid_flag_after_writing_everything(rbg, tmp_path):
    for arguments, wanted in (([], 0), (["--strict"], 1)):
        ran = rbg("evaluate", *SMALL, "--attack", "same", "--out", "out", *arguments)
        assert ran.exit_code == wanted, ran.output
        assert len(list((tmp_path / "here" / "out" / "results").rglob("*.json"))) == 2
    assert "--strict: invalid flags were raised: no-perturbation." in ran.stderr
    assert rbg("evaluate", *SMALL, "--out", "honest", "--strict").exit_code == 0
    built = rbg("leaderboard", "build", "out", "--strict", "--out", "strict.md")
    assert built.exit_code == 1 and "no-perturbation" in built.stderr
    assert (tmp_path / "here" / "strict.md").is_file()
    assert rbg("leaderboard", "build", "out").exit_code == 0
    assert rbg("leaderboard", "build", "honest", "--strict").exit_code == 0

"""Sweeps: one substitute for all points, ordinary records, a table and a CSV; each point in a process of its own."""

from __future__ import annotations

import json
import signal

import pytest
from click.testing import CliRunner
from planted_plugins import installed  # noqa: F401 - a fixture
from planted_sweeps import COMMAND, QUICK, rbg_sweep, sweep_out, table  # noqa: F401 - fixtures

from robustbench_gan.cli import main
from robustbench_gan.leaderboard import load_results
from robustbench_gan.training import workshop
from robustbench_gan.training.store import Store, read_header

# ---- a sweep


def test_a_sweep_judges_every_point_and_writes_table_csv_and_figure(rbg, out):
    done = rbg("dim", "--over", "factor=0,0.5,1", "--json")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)) == 3
    found = table(out)
    assert [(r["factor"], r["status"]) for r in found] == [("0", "suspect"), ("0.5", "ok"), ("1", "ok")]
    assert (
        float(found[0]["clean"]) == 0.0
    )  # everything is one grey: no class is strictly ahead, and the image is discarded
    assert float(found[1]["clean"]) == float(found[2]["clean"]) == 1.0
    for row in found:
        assert float(row["robust_low"]) <= float(row["robust"]) <= float(row["robust_high"])
        assert float(row["robust"]) <= float(row["clean"]) and row["n"] == "20"
    page = (out / "sweep.md").read_text()
    assert "| factor | clean | robust |" in page and page.count("| 0.5 |") == 1
    assert "it learnt from `dim:factor=0.5,mode=plain,shift=0.0`" in page


def test_one_substitute_serves_all_points_and_says_of_whom_it_learnt(rbg, out):
    assert rbg("dim", "--over", "factor=0.25,0.5,1", "--reference", "none").exit_code == 0
    headers = [read_header(path) for path in Store()]
    (made,) = [json.loads(h["recipe"]) for h in headers if h["kind"] == "substitute"]
    assert made["defense"][0] == "none"
    results = load_results(out)
    assert len({r.weights["substitute"] for r in results}) == 1 and len(results) == 3
    assert all(r.cell.threat.get("reference") == "none" for r in results)
    assert len({r.outcomes.size[0][0] for r in results}) == 1  # the examples are the same ones


def test_the_reference_decides_the_fingerprint_and_evaluate_asks_another_question(rbg, out):
    assert rbg("dim", "--over", "factor=0.5", "--reference", "none").exit_code == 0
    assert rbg("dim", "--over", "factor=0.5").exit_code == 0
    arguments = [
        "evaluate",
        *COMMAND,
        "--defense",
        "dim",
        "--attack",
        "fgsm",
        "--threat",
        QUICK,
        "--out",
        "out",
    ]
    assert CliRunner().invoke(main, [*arguments, "--judge-seeds", "1"]).exit_code == 0
    ours = [r for r in load_results(out) if r.cell.defense.name.startswith("dim")]
    assert len({r.fingerprint for r in ours}) == len({r.cell.question for r in ours}) == 3


def test_a_second_run_finds_everything_done_and_a_longer_one_adds_points(rbg, out, monkeypatch):
    assert rbg("dim", "--over", "factor=0.5,1").exit_code == 0
    before = {p: p.stat().st_mtime_ns for p in (out / "results").rglob("*.json")}
    trained = []
    pinned = workshop.make_substitute
    monkeypatch.setattr(
        "robustbench_gan.training.workshop.make_substitute", lambda *a: trained.append(a) or pinned(*a)
    )
    assert rbg("dim", "--over", "factor=0.5,1").exit_code == 0
    assert not trained and {p: p.stat().st_mtime_ns for p in (out / "results").rglob("*.json")} == before
    assert rbg("dim", "--over", "factor=0.25,0.5,1").exit_code == 0
    assert len(trained) == 1 and len(list((out / "results").rglob("*.json"))) == 3
    assert [row["factor"] for row in table(out)] == ["0.25", "0.5", "1"]


def test_an_interrupted_sweep_keeps_its_points_and_says_which_are_missing(rbg, out, monkeypatch):
    from robustbench_gan.engine import run

    judge, seen = run.evaluate_cell, []

    def stops(*arguments):
        if len(seen) == 1:
            signal.raise_signal(signal.SIGINT)
        seen.append(arguments)
        return judge(*arguments)

    monkeypatch.setattr(run, "evaluate_cell", stops)
    assert rbg("dim", "--over", "factor=0.5,1").exit_code == 130
    assert [row["status"] for row in table(out)] == ["ok", "missing"]
    monkeypatch.setattr(run, "evaluate_cell", judge)
    assert rbg("dim", "--over", "factor=0.5,1").exit_code == 0
    assert [row["status"] for row in table(out)] == ["ok", "ok"]


def test_one_at_a_time_has_a_table_a_parameter_and_a_shared_point_is_judged_once(rbg, out):
    done = rbg(
        "dim", "--over", "factor=0.5,1", "--over", "shift=0,0.1", "--one-at-a-time", "--threat", "white-box"
    )
    assert done.exit_code == 0, done.output
    page = (out / "sweep.md").read_text()
    assert "## `dim`, factor varied" in page and "## `dim`, shift varied" in page and "learnt" not in page
    assert [row["varied"] for row in table(out)] == ["factor", "factor", "shift", "shift"]
    assert list(table(out)[0])[:4] == ["defense", "varied", "factor", "shift"]
    assert len(load_results(out)) == 3  # factor 0.5 and shift 0 are the defaults


def test_a_point_that_fails_is_in_the_table_with_its_reason(rbg, out):
    done = rbg("dim", "failstofit", "--over", "factor=0.5")
    assert done.exit_code == 2 and "unknown parameter of 'failstofit'" in done.stderr
    done = rbg("dim+failstofit", "--over", "factor=0.5", "--threat", "white-box")
    assert done.exit_code == 1
    (row,) = table(out)
    assert row["status"] == "failed" and "no convergence" in row["reason"] and row["robust"] == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dim"], "--over"),
        (["--over", "factor=1"], "DEFENSE"),
        (["dim", "--over", "factor"], "expected NAME=value"),
        (["dim", "--over", "factr=1"], "Did you mean 'factor'?"),
        (["dim", "--over", "factor=-1"], "factor >= 0"),
        (["dim", "--over", "factor=wide"], "not a float"),
        (["dim", "--over", "factor=1", "--over", "factor=2"], "given twice"),
        (["dmi", "--over", "factor=1"], "unknown defense 'dmi'"),
        (["dim", "--over", "factor=1", "--reference", "nothing"], "unknown defense 'nothing'"),
        (["dim", "--over", "factor=1", "--attack", "pdg"], "unknown attack 'pdg'"),
        (["dim", "--over", "factor=1", "--samples", "ten"], "whole number or 'all'"),
        (["dim", "--over", "factor=1", "--threat", "black-box:substitute=dynamic"], "dynamic"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_bad_input_is_a_line_and_trains_nothing(rbg, tmp_path, arguments, says):
    done = rbg(*arguments)
    assert done.exit_code == 2 and says in done.stderr, done.output
    assert "Traceback" not in done.stderr and not (tmp_path / "cache").exists()


def test_a_dry_run_shows_the_points_and_writes_nothing(rbg, out, tmp_path):
    done = rbg("dim", "--over", "factor=0.5,1", "--dry-run")
    assert done.exit_code == 0 and done.stdout.startswith(
        "sweep: 2 cells: 2 to run, 0 done already, 0 not applicable\n"
    )
    assert "  substitute  1 to train (1 not estimated)" in done.stdout.splitlines()
    assert not out.exists() and not (tmp_path / "cache").exists()


def test_a_dry_run_lists_what_is_trained_once_and_tells_points_apart(rbg):
    done = rbg(
        "dim", "--over", "factor=0.25,1", "--over", "shift=0.1,0.2", "--one-at-a-time", "--dry-run", "-v"
    )
    lines = [line.strip() for line in done.stdout.splitlines()]
    trained = lines[1 : lines.index("cells")]
    assert [line.split()[0] for line in trained] == ["classifier", "defense", "substitute"]
    assert "dim, 4 settings: trained anew only where" in trained[1] and trained[2].endswith(
        "against grey / fixed / dim"
    )
    cells = [line for line in lines[: lines.index("trained once and shared")] if "/ fgsm" in line]
    assert len(cells) == len(set(cells)) == 4
    for values in ("factor=0.25, shift=0.0", "factor=1.0, shift=0.0", "factor=0.5, shift=0.1"):
        assert sum(f"dim ({values})" in line for line in cells) == 1


def test_in_the_graph_of_a_sweep_the_substitute_stands_once_whatever_is_judged(rbg):
    done = rbg("dim", "dim+none", "--over", "factor=0.25,0.5,1", "--reference", "none", "--dry-run", "--json")
    steps = json.loads(done.stdout)["steps"]
    (label,) = [s["label"] for s in steps if s["kind"] == "substitute"]
    assert label.endswith("against grey / fixed / none")
    defenses = [s["label"] for s in steps if s["kind"] == "defense"]
    assert len(defenses) == len(set(defenses)) == 6
    white = rbg("dim", "--over", "factor=0.25,0.5", "--threat", "white-box", "--dry-run", "--json")
    assert "substitute" not in [s["kind"] for s in json.loads(white.stdout)["steps"]]


def test_strict_exits_1_for_an_invalid_flag_after_writing_everything(rbg, out):
    asked = ["zerogradient+dim", "--over", "factor=0.5", "--threat", "white-box:gradient=full"]
    assert rbg(*asked).exit_code == 0
    done = rbg(*asked, "--strict")
    assert done.exit_code == 1 and "--strict: invalid flags were raised: " in done.stderr
    (row,) = table(out)
    assert row["status"] == "suspect" and "zero-gradient" in row["flags"]
    assert rbg("dim", "--over", "factor=0.5", "--threat", "white-box", "--strict").exit_code == 0


# ---- a process a point


def test_a_point_apart_is_what_it_is_at_home(rbg, out):
    home = rbg("dim", "--over", "factor=0.5", "--json")
    assert home.exit_code == 0, home.output
    for path in (out / "results").rglob("*.json"):
        path.unlink()
    away = rbg("dim", "--over", "factor=0.5", "--cell-timeout", "60", "--json")
    assert away.exit_code == 0, away.output
    told = [
        [
            {k: v for k, v in row.items() if "second" not in k and "memory" not in k}
            for row in json.loads(text)
        ]
        for text in (home.stdout, away.stdout)
    ]
    assert told[0] == told[1] and len(told[0]) == 1


def test_a_point_that_hangs_is_killed_and_the_table_says_so(rbg, out):
    done = rbg(
        "dim", "--over", "factor=0.5", "--threat", "white-box", "--attack", "control-hang", "--cell-timeout", "1.5"
    )  # fmt: skip
    assert done.exit_code == 1, done.output
    for row in table(out):
        assert (
            row["status"] == "failed" and "killed after 1.5 s, the limit of --cell-timeout" in row["reason"]
        )


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan", "soon"])
def test_a_limit_that_is_none_is_refused(rbg, out, seconds):
    done = rbg("dim", "--over", "factor=1", "--cell-timeout", seconds)
    assert done.exit_code == 2 and "--cell-timeout" in done.stderr and not out.exists()

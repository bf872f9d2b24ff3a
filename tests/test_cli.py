"""What the commands print and write: rows, lists, records, flags, leaderboards, the cache; dry runs do neither."""

from __future__ import annotations

import json
import math

import pytest
from called_cli import ROW, SMALL, rbg_in_an_empty_directory, refused  # noqa: F401 - fixtures
from planted_plugins import installed  # noqa: F401

from robustbench_gan.engine.matrix import Matrix
from robustbench_gan.flags import CATALOGUE


def test_json_is_one_array_of_rows_and_nothing_else(rbg):
    result = rbg(
        "evaluate", *SMALL, "--attack", "noise", "--threat", "gray-box", "--attack", "crashes", "--json"
    )
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert len(rows) == 6 and all(set(ROW) <= set(row) for row in rows)
    by_status = {row["status"]: row for row in rows}
    assert by_status.keys() == {"ok", "not applicable", "failed"}
    assert by_status["failed"]["robust_accuracy"] is None and by_status["failed"]["n"] == 10
    good = by_status["ok"]
    assert 0 <= good["ci_low"] <= good["robust_accuracy"] <= good["ci_high"] <= 1
    assert isinstance(good["flags"], list) and good["craft_seconds_per_image"] > 0


def test_a_dry_run_trains_nothing_and_writes_nothing(rbg, tmp_path):
    asked = [
        *SMALL,
        "--classifier",
        "quick",
        "--threat",
        "black-box:model=quick,rounds=2",
        "--threat",
        "gray-box",
        "--dry-run",
    ]
    result = rbg("evaluate", *asked)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "quick: 6 cells: 4 to run, 0 done already, 2 not applicable"
    assert "  substitute  2 to train (2 not estimated)" in lines
    assert next(line for line in lines if "there is nothing for a gray-box" in line).split()[0] == "2"
    assert not any("/ gray-box /" in line for line in lines)
    listed = rbg("evaluate", *asked, "-v").stdout
    assert (
        "not applicable: the defense is its classifier" in listed and listed.count("/ gray-box / fgsm") == 2
    )
    assert listed.endswith(result.stdout.splitlines()[-1] + "\n")
    plan = json.loads(rbg("evaluate", *asked, "--json").stdout)
    assert len(plan["cells"]) == 6 and sum(bool(c["not_applicable"]) for c in plan["cells"]) == 2
    assert [s["kind"] for s in plan["steps"]].count("substitute") == 2
    assert not list((tmp_path / "here").iterdir()) and not (tmp_path / "cache").exists()


def test_a_dry_run_counts_what_is_done(rbg):
    assert rbg("evaluate", *SMALL, "--out", "out").exit_code == 0
    again = rbg("evaluate", *SMALL, "--attack", "noise", "--out", "out", "--dry-run")
    assert again.stdout.startswith("quick: 2 cells: 1 to run, 1 done already, 0 not applicable\n")
    assert "/ noise" in again.stdout and "/ fgsm" not in again.stdout


def test_a_broken_plugin_breaks_only_itself(rbg):
    listed = json.loads(rbg("list", "attacks", "--json").stdout)
    broken = {e["name"]: e["error"] for e in listed if e["error"]}
    assert (
        broken.keys() == {"broken", "unregistered"}
        and "ImportError: planted: no such thing" in broken["broken"]
    )
    assert {"fgsm", "pgd", "same"} <= {e["name"] for e in listed}
    shown = rbg("list", "attacks", env={"COLUMNS": "1000"})
    assert shown.exit_code == 0 and "no such thing" in shown.stdout
    assert rbg("evaluate", *SMALL).exit_code == 0
    refused(rbg("evaluate", *SMALL, "--attack", "broken"), "'broken'", "planted")


@pytest.mark.parametrize("what", ["attacks", "defenses", "models", "datasets", "threats"])
def test_every_list_can_be_printed_in_every_form(rbg, what):
    entries = json.loads(rbg("list", what, "--json").stdout)
    names = rbg("list", what, "--names").stdout.split()
    assert names == json.loads(rbg("list", what, "--names", "--json").stdout)
    controls = {
        e["name"] for e in entries if e["name"].startswith("control-")
    }  # names are what one may want to run
    assert names == [e["name"] for e in entries if e["name"] not in controls]
    assert bool(controls) == (what in ("attacks", "defenses", "datasets"))
    assert all(
        e["summary"].endswith((".", ")")) or e["error"] for e in entries if e["distribution"] != "planted"
    )
    printed = rbg("list", what, env={"COLUMNS": "80"})
    lines = printed.stdout.splitlines()
    ours = [
        line for line in lines if line.partition(" ")[0] in {e["name"] for e in entries if not e["error"]}
    ]
    assert printed.exit_code == 0 and set(names) <= {line.partition(" ")[0] for line in lines}
    assert max(map(len, ours)) <= 80
    assert controls <= set(rbg("list", what, "--all", env={"COLUMNS": "80"}).stdout.split())


def test_one_name_is_shown_with_its_parameters_and_how_it_is_asked_for(rbg):
    shown = rbg("list", "attacks", "rand-fgsm")
    assert shown.exit_code == 0
    assert "alpha=0.05" in shown.stdout and "rbg evaluate --attack rand-fgsm:alpha=0.05" in shown.stdout
    (entry,) = json.loads(rbg("list", "attacks", "rand-fgsm", "--json").stdout)
    assert entry["name"] == "rand-fgsm" and entry["parameters"] == {"alpha": 0.05}
    refused(rbg("list", "attacks", "rand-fgms"), "unknown attack 'rand-fgms'", "Did you mean 'rand-fgsm'?")


def test_show_explains_flags_and_gives_the_row(rbg, tmp_path):
    rbg("evaluate", *SMALL, "--attack", "same", "--out", "out")
    paths = {p.name.split("-")[0]: p for p in (tmp_path / "here" / "out" / "results").rglob("*.json")}
    shown = rbg("show", paths["same"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0 and "no-perturbation" in shown.stdout and "white-box" in shown.stdout
    assert CATALOGUE["no-perturbation"].explanation in " ".join(shown.stdout.split())
    row = json.loads(rbg("show", paths["same"], "--json").stdout)
    assert row["status"] == "suspect" and set(ROW) <= set(row)


def test_flags_across_cells_are_told_in_every_form(rbg, tmp_path):
    """Forty steps that lead nowhere, beside the one step of FGSM."""
    nowhere = "pgd:steps=40,step=0.00001,random_start=false"
    asked = [*SMALL, "--samples", "40", "--attack", nowhere]
    ran = rbg("evaluate", *asked, "--out", "out", "--json", "--strict")
    assert ran.exit_code == 1
    name, rows = "iterative-weaker-than-single-step", json.loads(ran.stdout)
    assert [name in row["flags"] for row in rows] == [False, True]
    assert f"invalid: {name}" in " ".join(ran.stderr.split()) and "rbg explain FLAG" in ran.stderr
    page = (tmp_path / "here" / "out" / "README.md").read_text()
    assert f"| **{name}** | invalid |" in page.partition("## Red flags across cells")[2]
    assert f"**{name}** (invalid, across cells)" in page
    told = json.loads(rbg("leaderboard", "build", "out", "--json").stdout)
    assert told["invalid"] == [name] and told["comparisons"] == 1
    assert told["wrote"].endswith("README.md") and [one["id"] for one in told["across"]] == [name]
    rbg("leaderboard", "build", "out", "--out", "rows.csv")
    assert name in (tmp_path / "here" / "rows.csv").read_text()


def test_a_leaderboard_is_built_where_it_is_asked_for(rbg, tmp_path):
    rbg("evaluate", *SMALL, "--out", "out")
    built = rbg("leaderboard", "build", "out", "--out", "page.md")
    assert built.exit_code == 0 and "page.md" in built.stdout
    assert (tmp_path / "here" / "page.md").read_text() == (
        tmp_path / "here" / "out" / "README.md"
    ).read_text()
    (tmp_path / "here" / "empty" / "results").mkdir(parents=True)
    refused(rbg("leaderboard", "build", "empty"), "no results")
    refused(rbg("leaderboard", "build", "."), "no directory `results`")


def test_the_cache_is_listed_and_cleared_and_trained_into(rbg):
    trained = rbg("train", "quick", "noisy", "--dataset", "grey", "--classifier", "quick", "--json")
    assert trained.exit_code == 0, trained.stderr
    model, defense = json.loads(trained.stdout)
    assert 0 < defense["test_accuracy"] <= model["test_accuracy"] <= 1
    assert [item["key"] for item in json.loads(rbg("cache", "list", "--json").stdout)] == [model["key"]]
    assert rbg("cache", "clear", input="n\n").exit_code == 1
    assert "deleted 1 artifacts" in rbg("cache", "clear", "--yes").stdout
    assert json.loads(rbg("cache", "list", "--json").stdout) == []
    refused(
        rbg("train", "quik", "--dataset", "grey"), "unknown model or defense 'quik'. Did you mean 'quick'"
    )


def test_with_no_argument_the_preset_is_quick_and_the_options_go_before_it(rbg, monkeypatch):
    from robustbench_gan.engine import run as runs

    asked = []

    def run(matrix, planned, workshop, **more):
        asked.append((matrix, planned, more))
        return 0

    monkeypatch.setattr(runs, "run", run)
    options = [
        "--dataset",
        "grey:side=28",
        "--samples",
        "5",
        "--eps",
        "0.1",
        "--eps",
        "0.2",
        "--max-cell-minutes",
        "7",
    ]
    assert rbg("evaluate", *options).exit_code == 0
    (matrix, planned, more), *_ = asked
    assert isinstance(matrix, Matrix) and matrix.name == "quick" and matrix.max_cell_minutes == 7
    assert {c.cell.samples for c in planned} == {5} and {c.cell.eps for c in planned} == {0.1, 0.2}
    assert more["batch_size"] == 200 and not math.isnan(planned[0].cell.eps)


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", *SMALL],
        ["sweep", "median", "--over", "size=2,3", "--dataset", "grey", "--classifier", "fixed", "--threat", "white-box"],
        ["audit", "none", "--dataset", "grey", "--classifier", "fixed", "--samples", "10"],
    ],
    ids=lambda command: command[0],
)  # fmt: skip
def test_every_command_reads_a_radius_written_as_a_fraction(rbg, command):
    fraction, decimal = (
        rbg(*command, "--eps", eps, "--dry-run", "--json") for eps in ("8/255", repr(8 / 255))
    )
    assert fraction.exit_code == 0, fraction.output
    assert fraction.stdout == decimal.stdout != ""

"""The command line: bad input is one line and exit code 2, output can be piped, nothing heavy is imported early."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from planted import plant
from planted_plugins import environment, installed  # noqa: F401

from robustbench_gan.base.errors import Fatal
from robustbench_gan.cli import main
from robustbench_gan.engine.matrix import Matrix
from robustbench_gan.flags import CATALOGUE
from robustbench_gan.leaderboard import load_results
from robustbench_gan.nouns.spec import FileReference
from robustbench_gan.nouns.user_files import user_digest
from robustbench_gan.training.store import Store

ROW = [
    "dataset", "classifier", "defense", "attack", "goal", "threat", "norm", "eps", "n", "clean_accuracy",
    "robust_accuracy", "ci_low", "ci_high", "status", "flags", "craft_seconds_per_image",
    "defense_seconds_per_image",
]  # fmt: skip
SMALL = ["--dataset", "grey", "--classifier", "fixed", "--defense", "none", "--attack", "fgsm", "--threat",
         "white-box", "--eps", "0.1", "--samples", "10", "--judge-seeds", "1", "--device", "cpu"]  # fmt: skip


@pytest.fixture
def rbg(tmp_path, monkeypatch):
    """Call `rbg` in an empty directory with an empty cache."""
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments, **more):
        return CliRunner().invoke(main, [str(a) for a in arguments], **more)

    return call


def refused(result, *says):
    """Exit code 2, nothing on standard output, and one line that says all this.

    Click's own usage may stand before it, or what the run was about to do.
    """
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit) and result.stdout == ""
    lines = [
        line
        for line in result.stderr.splitlines()
        if line and not line.startswith(("Usage:", "Try '", "quick: "))
    ]
    assert len(lines) == 1, result.stderr
    for part in says:
        assert part in lines[0]


# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--attack", "pdg"], ["unknown attack 'pdg'", "Did you mean 'pgd'?", "fgsm"]),
        (["--defense", "magnte"], ["unknown defense 'magnte'", "Did you mean 'magnet'?", "defense-gan"]),
        (["--classifier", "small_cnn"], ["unknown model 'small_cnn'", "Did you mean 'small-cnn'?", "lenet"]),
        (["--dataset", "mnits"], ["unknown dataset 'mnits'", "Did you mean 'mnist'?", "folder"]),
        (["--threat", "gray"], ["unknown threat model 'gray'", "Did you mean 'gray-box'?", "seed-known"]),
        (["--preset", "quik"], ["unknown preset 'quik'", "Did you mean 'quick'?", "standard"]),
        (["--goal", "untarget"], ["unknown goal 'untarget'", "Did you mean 'untargeted'?", "least-likely"]),
        (["--norm", "linfty"], ["unknown norm 'linfty'", "Did you mean 'linf'?", "l2"]),
        (["--attack", "pgd:step_size=1"], ["unknown parameter of attack 'pgd': 'step_size'", "restarts"]),
        (["--attack", "pgd:steps=1.5"], ["pgd:steps=1.5 is not a int", "40"]),
        (["--attack", "pgd:steps=3,steps=4"], ["'steps' is given twice"]),
        (["--attack", "pgd("], ["cannot read 'pgd('"]),
        (["--attack", ""], ["cannot read ''"]),
        (["--defense", "magnet:width=0"], ["magnet needs width >= 1"]),
        (["--defense", "adversarial-training:attack=nope"], ["unknown attack 'nope'"]),
        (["--attack", "broken"], ["'broken'", "planted 1.0", "planted_broken:attack", "ImportError"]),
        (["--eps", "-0.1"], ["eps=-0.1", "0 or more"]),
        (["--eps", "nan"], ["eps=nan"]),
        (["--eps", "8"], ["eps=8.0", "8/255"]),
        (["--eps", "big"], ["--eps", "eps=big", "0.03 or 8/255"]),
        (["--eps", "8/0"], ["eps=8/0 is no radius"]),
        (["--samples", "0"], ["samples=0", "200 images"]),
        (["--samples", "-3"], ["samples=-3"]),
        (["--samples", "201"], ["samples=201", "200 images"]),
        (["--samples", "ten"], ["--samples 'ten'", "whole number or 'all'"]),
        (["--judge-seeds", "0"], ["--judge-seeds"]),
        (["--eot", "0"], ["--eot"]),
        (["--batch-size", "0"], ["--batch-size"]),
        (["--max-cell-minutes", "0"], ["--max-cell-minutes"]),
        (["--gradient", "ful"], ["--gradient", "bpda"]),
        (["--device", "tpu"], ["--device"]),
        (["--attack", "pgd:steps=0"], ["steps >= 1"]),
        (["--bogus"], ["--bogus"]),
        (["--verbose"], ["--verbose", "--dry-run"]),
        (["quick"], ["for the preset of that name write --preset quick"]),
        (["nothing.toml"], ["nothing.toml", "there is no such file"]),
        (["/dev/zero"], ["cannot read /dev/zero", "device"]),
        (["--classifier", "dir/net.py"], ["add the function", "dir/net.py:factory"]),
        (["--classifier", "nothing.py:make", "--weights", __file__], ["nothing.py"]),
        (["--weights", "nothing.safetensors"], ["nothing.safetensors", "does not exist"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(rbg, arguments, says):
    options = list(SMALL)
    for name in {a for a in arguments if a.startswith("--")} & set(options):
        at = options.index(name)
        del options[at : at + 2]
    refused(rbg("evaluate", *options, *arguments, "--out", "out"), *says)


def test_several_thresholds_of_one_mistake_leave_finished_results_alone(rbg, tmp_path):
    assert rbg("evaluate", *SMALL, "--out", "out").exit_code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "here" / "out").rglob("*") if p.is_file()}
    refused(rbg("evaluate", *SMALL, "--attack", "pdg", "--out", "out"), "'pdg'")
    refused(rbg("evaluate", *SMALL, "--eps", "-1", "--out", "out"), "eps=-1")
    assert {p: p.read_bytes() for p in (tmp_path / "here" / "out").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("samples = \n", ["m.toml is not valid TOML", "line 1"]),
        ("samples = 3\nattakcs = []\n", ["unknown key in m.toml", "'attakcs'", "Did you mean 'attacks'?", "defenses"]),
        ("[[block]]\neps = 0.3\n", ["m.toml", "eps"]),
        ("block = [3]\n", ["m.toml", "block"]),
        ("[block]\nsamples = 3\n", ["m.toml", "block"]),
    ],
)  # fmt: skip
def test_a_bad_matrix_file_is_one_line(rbg, text, says):
    with open("m.toml", "w") as file:  # noqa: PTH123 - a name relative to the fixture's directory
        file.write(text)
    refused(rbg("evaluate", "m.toml", "--device", "cpu"), *says)
    refused(rbg("evaluate", "m.toml", "--goal", "random"), *says)


def test_a_matrix_and_a_preset_at_once_are_refused(rbg, tmp_path):
    (tmp_path / "here" / "m.toml").write_text("")
    refused(rbg("evaluate", "m.toml", "--preset", "quick"), "not both")


@pytest.mark.parametrize("place", ["out", "out/results"])
def test_results_that_cannot_be_written_are_known_before_any_work(rbg, tmp_path, place):
    blocked = tmp_path / "here" / place
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("a file in the way")
    refused(rbg("evaluate", *SMALL, "--out", "out"), "out")
    assert blocked.read_text() == "a file in the way" and not (tmp_path / "cache" / "artifacts").exists()


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\x00" * 64])
def test_a_damaged_artifact_is_named_and_nothing_else_is_lost(rbg, tmp_path, damage):
    assert rbg("evaluate", *SMALL, "--classifier", "quick", "--out", "first").exit_code == 0
    artifacts = list(Store(tmp_path / "cache" / "artifacts"))
    for path in artifacts:
        path.write_bytes(damage(path.read_bytes()))
    result = rbg("evaluate", *SMALL, "--classifier", "quick", "--out", "second")
    refused(result, "cannot read", "Delete the file")
    assert len(load_results(tmp_path / "here" / "first")) == 2
    listed = rbg("cache", "list", "--json")
    assert listed.exit_code == 0 and "unreadable" in json.loads(listed.stdout)[0]["info"]


@pytest.mark.parametrize(
    ("text", "says"),
    [('{"schema_version": 99}', "schema version 99"), ('{"schema_version": 1, "ce', "is no JSON")],
)
def test_a_result_that_cannot_be_read_is_named_and_kept(rbg, tmp_path, text, says):
    assert rbg("evaluate", *SMALL, "--out", "out").exit_code == 0
    (path,) = (tmp_path / "here" / "out" / "results").rglob("*.json")
    path.write_text(text)
    result = rbg("evaluate", *SMALL, "--out", "out")
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    assert says in result.stderr and path.name in result.stderr.replace("\n", "")
    assert path.read_text() == text
    refused(rbg("show", path), says)
    refused(rbg("leaderboard", "build", "out"), says)


# ---- a classifier of one's own


OWN = "import torch\ndef make(shape, classes):\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, classes))\n"


@pytest.fixture
def own(tmp_path, rbg):
    from safetensors.torch import save_file

    here = tmp_path / "here"
    (here / "mine.py").write_text(OWN)
    import torch

    save_file({"1.weight": torch.eye(3, 16), "1.bias": torch.zeros(3)}, here / "good.safetensors")
    save_file({"1.weight": torch.eye(3, 15), "1.bias": torch.zeros(3)}, here / "wrong.safetensors")
    (here / "bad.safetensors").write_bytes(b"no safetensors")
    (here / "raises.py").write_text("raise RuntimeError('planted')\n")
    (here / "number.py").write_text("def make():\n    return 3\n")

    def call(classifier, weights=None):
        options = [a for a in SMALL if a not in ("--classifier", "fixed")]
        result = rbg(
            "evaluate", *options, "--classifier", classifier, *(["--weights", weights] if weights else [])
        )
        return result

    return call


@pytest.mark.parametrize(
    "command", [("evaluate", *SMALL), ("audit", "none", "--dataset", "grey", "--classifier", "fixed")]
)
def test_weights_that_nothing_takes_are_refused(own, rbg, command):
    result = rbg(*command, "--weights", "good.safetensors")
    assert result.exit_code == 2 and "--weights good.safetensors" in result.stderr
    assert "--classifier path/to/file.py:factory" in result.stderr


def test_a_change_beside_the_file_of_a_classifier_of_ones_own_is_judged_anew(own, tmp_path):
    here = tmp_path / "here"
    (here / "shape.py").write_text("SIDE = 4\n")
    (here / "mine.py").write_text("import shape\n" + OWN)
    seen = []
    for text in ("SIDE = 4\n", "SIDE = 4  # the same\n", "# said\nSIDE = 4  # the same\n", "SIDE = 5\n"):
        (here / "shape.py").write_text(text)
        seen.append(user_digest(FileReference(here / "mine.py", "make", here / "good.safetensors")))
    assert seen[1] == seen[2] and len(set(seen)) == 3
    assert user_digest(FileReference.of("mine.py:make@good.safetensors")) == seen[-1]  # however it is written


def test_a_classifier_of_ones_own_is_evaluated(own, tmp_path):
    result = own("mine.py:make", "good.safetensors")
    assert result.exit_code == 0, result.stderr
    (record,) = load_results(tmp_path / "here" / "rbg-results")
    assert record.status == "ok" and str(record.cell.classifier).startswith("mine.py:make@")


@pytest.mark.parametrize(
    ("classifier", "weights", "says"),
    [
        ("nothing.py:make", "good.safetensors", "nothing.py"),
        ("mine.py:made", "good.safetensors", "no function 'made'"),
        ("raises.py:make", "good.safetensors", "RuntimeError: planted"),
        ("number.py:make", "good.safetensors", "int, not a torch.nn.Module"),
        ("mine.py:make", None, "needs --weights"),
        ("mine.py:make", "wrong.safetensors", "does not fit"),
        ("mine.py:make", "bad.safetensors", "cannot read"),
    ],
)
def test_what_is_wrong_with_it_is_said_in_a_line(own, classifier, weights, says):
    result = own(classifier, weights)
    assert result.exit_code == 2, (result.output, result.exception)
    lines = [line for line in result.stderr.splitlines() if line.startswith("rbg: ")]
    assert len(lines) == 1 and says in result.stderr and "Traceback" not in result.stderr


# ---- output


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


def test_an_attack_without_its_facts_is_refused_in_a_line(rbg):
    refused(rbg("evaluate", *SMALL, "--attack", "unregistered"), "unregistered", "@attack")


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


# ---- what is imported


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["evaluate", "--help"],
        ["sweep", "--help"],
        ["list", "attacks", "--names"],
        ["explain"],
        ["explain", "no-eot"],
        ["explain", "--json"],
    ],
)
def test_no_torch_where_none_is_needed(tmp_path, installed, arguments):  # noqa: F811
    code = (
        "import sys\nfrom robustbench_gan.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules, 'imported'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(installed, tmp_path), text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout and done.stderr == ""


@pytest.mark.slow
def test_the_installed_program_sees_plugins_and_fails_in_one_line(tmp_path, installed):  # noqa: F811
    def rbg(*arguments):
        command = [sys.executable, "-c", "from robustbench_gan.cli import main; main()", *arguments]
        return subprocess.run(
            command, env=environment(installed, tmp_path), text=True, capture_output=True, cwd=tmp_path
        )

    ran = rbg("evaluate", *SMALL, "--attack", "crashes", "--json")
    assert ran.returncode == 1 and [row["status"] for row in json.loads(ran.stdout)] == ["failed", "ok"]
    bad = rbg("evaluate", *SMALL, "--attack", "pdg")
    assert (bad.returncode, bad.stdout) == (2, "") and bad.stderr.count("\n") == 1


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


CHATTY = """
import os, subprocess, sys
print("imported")
from rbg_attacks.fgsm import fgsm
from robustbench_gan.contracts.attacks import attack
from robustbench_gan.contracts.defense import Defense

@attack(needs="nothing", paper="planted")
def chatty(view, x, goal, budget, seed):
    print("called")
    os.write(1, b"written")
    subprocess.run(["echo", "echoed"], check=True)
    sys.__stdout__.write("original")
    return x.clone()

class Chatty(Defense):
    def __init__(self, base):
        print("made")
        super().__init__(base)

    def fit(self, data, seed, store):
        print("fitted")
"""


@pytest.mark.parametrize("command", ["evaluate", "audit", "list", "train"])
def test_what_a_plugin_prints_goes_to_standard_error(rbg, plugin_path, capfd, command):
    points = "[robustbench_gan.attacks]\nchatty = chatty:chatty\n[robustbench_gan.defenses]\nchatty = chatty:Chatty\n"
    plant(plugin_path, "chatty", points, {"chatty.py": CHATTY})
    small = ["--dataset", "grey", "--classifier", "fixed"]
    arguments = {
        "evaluate": [*SMALL, "--attack", "chatty", "--defense", "chatty"],
        "audit": ["chatty", *small, "--samples", "10", "--check", "dropout", "--dry-run"],
        "list": ["defenses"],
        "train": ["chatty", *small],
    }[command]
    with pytest.raises(SystemExit) as end:
        main([command, *arguments, "--json"])
    out, err = capfd.readouterr()
    assert end.value.code == 0, err
    assert json.loads(out)
    said = ["imported"] + ["made"] * (command != "list") + ["fitted"] * (command in ("evaluate", "train"))
    assert all(word in err for word in said)
    if command == "evaluate":
        assert all(word in err for word in ("called", "written", "echoed", "original"))


def test_a_typo_in_the_last_name_is_found_before_the_first_training(rbg, tmp_path):
    for last, says in (("magnett", "'magnett'"), ("magnet:width=0", "width >= 1"), ("median+nois", "'nois'")):
        refused(rbg("train", "quick", last, "--dataset", "grey", "--classifier", "quick"), says)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_name_that_two_plugins_claim_harms_only_those_who_use_it(rbg, plugin_path):
    for name in ("one", "two"):
        points = f"[robustbench_gan.attacks]\nzap = rbg_{name}:zap\n"
        plant(plugin_path, name, points, {f"rbg_{name}.py": "zap = print"})
    assert rbg("evaluate", *SMALL, "--dry-run").exit_code == 0
    assert "Uninstall one" in rbg("list", "attacks", "--json").stdout
    refused(rbg("evaluate", *SMALL, "--attack", "zap", "--dry-run"), "two plugins register attack 'zap'")


@pytest.mark.parametrize(
    ("text", "says"),
    [("eps = " + "[" * 9000, "nested too deeply"), ("a." * 10**5 + "b = 1", "a line has more than"), ("#\n" * 10**6, "bytes")],
    ids=["deep", "dotted", "huge"],
)  # fmt: skip
def test_a_matrix_that_nobody_wrote_is_one_line_at_once(rbg, tmp_path, text, says):
    (tmp_path / "m.toml").write_text(text)
    refused(rbg("evaluate", tmp_path / "m.toml", "--dry-run"), says)
    os.mkfifo(tmp_path / "pipe.toml")
    refused(rbg("evaluate", tmp_path / "pipe.toml", "--dry-run"), "pipe.toml")


def test_a_tilde_in_an_option_is_the_home_directory(rbg, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m.toml").write_text('datasets = ["grey"]\nclassifiers = ["fixed"]\nsamples = 10\n')
    assert rbg("evaluate", "~/m.toml", "--dry-run").exit_code == 0
    refused(
        rbg("evaluate", "~nobody-here/m.toml", "--dry-run"), "~nobody-here/m.toml", "there is no such file"
    )


def test_a_thread_that_a_plugin_left_running_does_not_keep_the_command():
    code = (
        "import threading, time; from robustbench_gan.base import stopping; before = threading.enumerate();"
        "threading.Thread(target=time.sleep, args=({},)).start(); stopping.abandon(before, 3)"
    )
    left = subprocess.run([sys.executable, "-c", code.format(60)], capture_output=True, text=True, timeout=30)
    assert (left.returncode, left.stderr) == (
        3,
        "rbg: a plugin left a thread running, which was abandoned.\n",
    )
    ended = subprocess.run(
        [sys.executable, "-c", code.format(0.1)], capture_output=True, text=True, timeout=30
    )
    assert (ended.returncode, ended.stderr) == (0, "")

"""Sweeps: which points, one substitute for all of them, ordinary records, a table, a CSV and a figure."""

from __future__ import annotations

import csv
import json
import signal
import sys

import pytest
from click.testing import CliRunner
from planted import plant
from planted_plugins import installed  # noqa: F401 - a fixture

from robustbench_gan.base.errors import UsageError
from robustbench_gan.cli import main
from robustbench_gan.engine.points import Axis, points, varied
from robustbench_gan.engine.sweep_figure import places
from robustbench_gan.leaderboard import load_results
from robustbench_gan.nouns.spec import Chain
from robustbench_gan.training import workshop
from robustbench_gan.training.store import Store, read_header

DIM = """
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.base.errors import UsageError

class Dim(Defense):
    '''Draws pixels towards the middle grey, where the planted linear model has no opinion.'''

    purifies = True

    def __init__(self, base, *, factor: float = 0.5, shift: float = 0.0, mode: str = "plain"):
        super().__init__(base)
        if factor < 0:
            raise UsageError(f"dim needs factor >= 0, not {factor}.")
        self.factor, self.shift = factor, shift

    def purify(self, x, seed):
        return 0.5 + self.factor * (x - 0.5) + self.shift
"""
COMMAND = ["--dataset", "grey", "--classifier", "fixed", "--eps", "0.1", "--samples", "20", "--device", "cpu"]
QUICK = "black-box:model=quick,rounds=2"


@pytest.fixture
def rbg(tmp_path, monkeypatch, plugin_path):
    """Call `rbg sweep` in an empty directory with an empty cache, the defense `dim` installed."""
    plant(plugin_path, "dim", "[robustbench_gan.defenses]\ndim = planted_dim:Dim\n", {"planted_dim.py": DIM})
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments):
        given = ["sweep", *arguments, "--out", "out"]
        for name, value in zip(COMMAND[::2], COMMAND[1::2], strict=True):
            given += [name, value] if name not in arguments else []
        given += ["--threat", QUICK] if "--threat" not in arguments else []
        return CliRunner().invoke(main, given)

    return call


@pytest.fixture
def out(tmp_path):
    return tmp_path / "here" / "out"


def table(out):
    return list(csv.DictReader((out / "sweep.csv").open()))


# ---- which points


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("L=25", "L", ("25",)),
        ("L=25,50 , 100", "L", ("25", "50", "100")),
        ("attack=pgd(steps=1,step=0.1),fgsm", "attack", ("pgd(steps=1,step=0.1)", "fgsm")),
        ("magnet.width=1,2", "magnet.width", ("1", "2")),
    ],
)
def test_an_axis_is_read(text, name, values):
    assert Axis.parse(text) == Axis(name, values)


@pytest.mark.parametrize("text", ["", "L", "L=", "=1,2", "L=1,,2", "L=1,", "L=,1", "L=1,2,1", "L=f(1"])
def test_an_axis_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError, match="--over"):
        Axis.parse(text)


L, R = Axis("iterations", ("25", "50")), Axis("restarts", ("1", "2", "5"))


def test_crossed_gives_every_combination():
    found = points([Chain.of("defense-gan")], [L, R], one_at_a_time=False)
    assert len(found) == 6 and len({p.spec for p in found}) == 6 and {p.axis for p in found} == {""}
    assert str(found[1].spec) == "defense-gan:iterations=25,restarts=2"


def test_one_at_a_time_keeps_the_others_as_given():
    found = points([Chain.of("defense-gan:iterations=100,restarts=10")], [L, R], one_at_a_time=True)
    assert [str(p.spec) for p in found] == [
        f"defense-gan:iterations={i},restarts={r}"
        for i, r in [(25, 10), (50, 10), (100, 1), (100, 2), (100, 5)]
    ]
    assert [p.axis for p in found] == ["iterations"] * 2 + ["restarts"] * 3


def test_in_a_composition_the_stage_that_has_the_parameter_is_varied():
    chain = Chain.of("magnet:epochs=1+adversarial-training")
    assert str(varied(chain, [("mix", "0.25")])) == "magnet:epochs=1+adversarial-training:mix=0.25"
    assert str(varied(chain, [("magnet.lr", "0.5")])) == "magnet:epochs=1,lr=0.5+adversarial-training"
    with pytest.raises(UsageError, match=r"several stages .*write magnet.epochs="):
        varied(chain, [("epochs", "2")])
    with pytest.raises(UsageError, match="unknown parameter of 'magnet'"):
        varied(Chain.of("magnet"), [("widht", "2")])


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


# ---- the figure


def test_without_matplotlib_the_table_is_written_and_the_want_is_said(rbg, out, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = rbg("dim", "--over", "factor=0.5")
    assert done.exit_code == 0 and "matplotlib is missing" in done.stderr and "[plots]" in done.stderr
    assert (out / "sweep.md").exists() and not (out / "sweep.png").exists()
    assert "sweep.png" not in (out / "sweep.md").read_text()


def test_the_figure_is_drawn(rbg, out):
    pytest.importorskip("matplotlib")
    long = "dim:mode=" + "x" * 300  # a legend that is wider than the figure would leave no room to draw in
    done = rbg("dim", long, "--over", "factor=0.1,0.5,1", "--over", "shift=0,0.1")
    assert done.exit_code == 0, done.output
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "](sweep.png)" in (out / "sweep.md").read_text()


def test_values_that_are_no_numbers_stand_in_a_row():
    assert places(["25", "1e2"]) == {"25": 25.0, "1e2": 100.0}
    assert places(["orig", "rec"]) == {"orig": 1.0, "rec": 2.0}

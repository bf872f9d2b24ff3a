"""The tables of speed are those of the numbers kept."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("benchmark_table", ROOT / "tools" / "benchmark_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lap(name, ratio, median=0.5):
    return {
        "name": name,
        "seconds": ratio,
        "per_image": ratio / 100,
        "ratio": ratio,
        "success": 1.0,
        "median": median,
    }


def run(name="FMN l2", rival="foolbox", ratio=2.5, median=0.5):
    race = {
        "name": name, "setting": "MNIST", "images": 100, "rounds": 5, "threads": 1, "clock": "wall",
        "laps": [lap("ours", 1.0), lap(rival, ratio, median)],
    }  # fmt: skip
    machine = {"cpu": {"brand_raw": "a processor"}, "python_version": "3.11.7"}
    return {"machine_info": machine, "datetime": "2026-11-20T16:00:00", "benchmarks": [{"extra_info": race}]}


@pytest.fixture
def root(tmp_path, tool):
    (tmp_path / "docs").mkdir()
    return tmp_path


def taken(tool, root, *runs):
    files = []
    for at, each in enumerate(runs):
        files.append(root / f"{at}.json")
        files[-1].write_text(json.dumps(each))
    return tool.main([str(file) for file in files], root)


def test_a_run_is_kept_and_written_in_short_and_in_full(tool, root):
    assert tool.main(["--check"], root) == 1
    assert taken(tool, root, run(), run("PGD", "art", 3.0)) == 0 and tool.main(["--check"], root) == 0
    text = (root / "docs/benchmarks.md").read_text()
    assert "| FMN l2 | MNIST | 10 |  | 2.5 x |" in text and "| PGD | MNIST | 10 | 3.0 x |  |" in text
    assert "| foolbox | 25 | 2.50 | 1.000 | 0.5 |" in text
    assert len(json.loads((root / "docs/benchmarks.json").read_text())) == 2


def test_a_race_run_again_replaces_the_old_one(tool, root):
    taken(tool, root, run(), run("PGD"))
    taken(tool, root, run(ratio=4.0))
    assert [race["laps"][1]["ratio"] for race in json.loads((root / "docs/benchmarks.json").read_text())] == [
        4.0,
        2.5,
    ]


def test_one_race_in_two_settings_is_two_races(tool, root):
    other = run()
    other["benchmarks"][0]["extra_info"]["setting"] = "colour"
    assert taken(tool, root, run(), other) == 0
    assert [r["setting"] for r in json.loads((root / tool.KEPT).read_text())] == ["MNIST", "colour"]


def test_no_success_has_no_median(tool, root):
    taken(tool, root, run(median=math.nan))
    assert json.loads((root / "docs/benchmarks.json").read_text())[0]["laps"][1]["median"] is None
    assert "| 1.000 | – |" in (root / "docs/benchmarks.md").read_text()


def test_a_race_against_the_bare_loop_stays_out_of_the_short_table(tool, root):
    taken(tool, root, run(), run("the engine's view", tool.BARE))
    text = (root / "docs/benchmarks.md").read_text()
    assert "| FMN l2 | MNIST" in text and "| the engine's view" not in text and "## the engine's view" in text


def test_a_changed_document_is_stale(tool, root, capsys):
    taken(tool, root, run())
    (root / "docs/benchmarks.md").write_text("12 x faster\n")
    assert tool.main(["--check"], root) == 1 and "docs/benchmarks.md is stale" in capsys.readouterr().out


def test_the_documents_of_the_project_are_up_to_date(tool):
    assert tool.main(["--check"]) == 0

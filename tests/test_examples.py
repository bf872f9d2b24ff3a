"""The files in examples/ run, and print what they say they print."""

from __future__ import annotations

import runpy
import sys
import warnings
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(monkeypatch, tmp_path, capfd):
    def of(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        monkeypatch.chdir(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capfd.readouterr().out

    return of


def test_every_example_is_tried_here():
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(f'run("{path.name}"' in text for path in EXAMPLES.glob("*.py"))


def test_a_model_of_ones_own_is_attacked(run):
    said = run("own_model.py")
    assert (
        "eps 0.1: robust accuracy 0.0" in said and "half of the images fall to a change of l2 size 0." in said
    )


def test_a_defense_of_ones_own_is_suspect_until_bpda_goes_around_it(run):
    through, around = run("own_defense.py").split("around it, by BPDA:")
    assert "SUSPECT" in through and "zero-gradient" in through
    assert "SUSPECT" not in around and "robust accuracy 0.000" in around


def test_a_sweep_writes_its_table(run, tmp_path):
    said = run("sweep.py", tmp_path / "out")
    assert "| 1 | 1.000" in said and "| 4 | 1.000" in said and (tmp_path / "out" / "sweep.csv").exists()


def test_an_audit_says_its_verdicts(run, tmp_path):
    said = run("audit.py", tmp_path / "out")
    assert said.count("nothing found") == 2 and "Passing is no proof" in said


def test_results_become_a_frame(run):
    said = run("dataframe.py")
    assert "defense-gan" in said and "white-box" in said and "rows with" in said

"""The figure of a sweep, and the table without it."""

from __future__ import annotations

import sys

import pytest
from planted_plugins import installed  # noqa: F401 - a fixture
from planted_sweeps import rbg_sweep, sweep_out  # noqa: F401 - fixtures

from robustbench_gan.engine.sweep_figure import places


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

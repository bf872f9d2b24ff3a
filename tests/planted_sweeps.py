"""A defense to sweep over, and `rbg sweep` called on it."""

from __future__ import annotations

import csv

import pytest
from click.testing import CliRunner
from planted import plant

from robustbench_gan.cli import main

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


@pytest.fixture(name="rbg")
def rbg_sweep(tmp_path, monkeypatch, plugin_path):
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


@pytest.fixture(name="out")
def sweep_out(tmp_path):
    return tmp_path / "here" / "out"


def table(out):
    return list(csv.DictReader((out / "sweep.csv").open()))

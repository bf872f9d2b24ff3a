"""Code that ends the process where it is imported, made or asked: who needs it fails, and nobody else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from planted_endings import ENDINGS, ENDS_IMPORT, ENTRY_POINTS
from planted_plugins import also_installed, cell, installed, planned, workshop  # noqa: F401

from robustbench_gan import registry, trial
from robustbench_gan.catalogue import catalogue
from robustbench_gan.errors import UsageError

endings = also_installed("endings", ENTRY_POINTS, files={"planted_ends_import.py": ENDS_IMPORT})


@pytest.mark.parametrize("how", ENDINGS)
def test_a_constructor_that_ends_the_process_costs_its_cells(tmp_path, how):
    where = workshop(tmp_path)
    honest = cell(where, defenses="untrained")
    assert honest.status == "ok", honest.reason
    result = cell(where, defenses=f"ends-made:how={how}")
    assert result.status == "failed" and result.reason.startswith(
        f"Died: it ends the process {ENDINGS[how][1]}"
    )


@pytest.mark.parametrize(
    "asked",
    [
        {"defenses": "ends-made:where=real"}, {"defenses": "ends-made:where=asked"}, {"classifiers": "ends-model"},
    ],
)  # fmt: skip
def test_so_does_one_that_ends_it_later(tmp_path, asked):
    result = cell(workshop(tmp_path), **asked)
    assert result.status == "failed" and "it ends the process with exit code 0" in result.reason


@pytest.mark.parametrize("asked", [{"defenses": "ends-made:where=asked"}, {"attacks": "ends-asked"}])
def test_planning_asks_nothing_that_ends_the_process(tmp_path, asked):
    (only,) = planned(workshop(tmp_path), **asked)
    assert only.reason == ""


def test_an_import_that_ends_the_process_is_the_plugins_error():
    with pytest.raises(
        UsageError, match=r"'ends-imported' .* fails to import: Died: it ends .* by signal 11"
    ):
        registry.load("attacks", "ends-imported")
    (listed,) = [row for row in catalogue("attacks") if row["name"] == "ends-imported"]
    assert "by signal 11" in listed["error"]


def test_a_trial_leaves_nothing_behind_and_knows_what_lives(capfd):
    before = len(list(Path("/proc/self/fd").iterdir()))
    trial.tried("lives", lambda: print("said twice"))
    trial.tried("raises", lambda: 1 / 0)
    with pytest.raises(trial.Died, match="exit code 3"):
        trial.tried("dies", lambda: os._exit(3))
    assert len(list(Path("/proc/self/fd").iterdir())) == before and capfd.readouterr().out == ""


def test_what_takes_long_is_called_without_a_trial(monkeypatch):
    monkeypatch.setattr(trial, "LIMIT", 0.1)
    trial.tried("long", lambda: __import__("time").sleep(60))

"""The rows of the leaderboard as JSON, in the console and as CSV."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from planted_results import MIXED, ZERO_GRADIENT, result, store
from rich.console import Console

from robustbench_gan.leaderboard import build, console_table, frame, rows

PROMISED = (
    *("dataset", "classifier", "defense", "attack", "goal", "threat", "norm", "eps", "n", "judge_seeds"),
    *("clean_accuracy", "clean_ci_low", "clean_ci_high", "robust_accuracy", "ci_low", "ci_high"),
    *("status", "reason", "flags", "craft_seconds_per_image", "defense_seconds_per_image"),
    *("forward_passes_per_image", "backward_passes_per_image", "training_seconds", "estimate_seconds"),
    "fingerprint",
)


# rows


def test_rows_are_strict_json_with_every_promised_key() -> None:
    found = rows([*MIXED, result("0000", eps=math.inf), result(status="not run", attack="c")], at=[0.3])
    again = json.loads(json.dumps(found, allow_nan=False))
    assert all(set(PROMISED) <= set(row) for row in again)
    assert [row["eps"] for row in again if row["defense"] == "none"] == [0.3, "inf", 0.3]


def test_rows_hold_the_hand_computed_numbers() -> None:
    (row,) = rows([result(["1100", "1000"], more={"flags": [ZERO_GRADIENT], "status": "suspect"})])
    assert row["robust_accuracy"] == pytest.approx(3 / 8) and row["clean_accuracy"] == 1
    assert row["craft_seconds_per_image"] == 0.5 and row["defense_seconds_per_image"] == 1 / 8
    assert (row["forward_passes_per_image"], row["backward_passes_per_image"]) == (40, 20)
    assert (row["status"], row["flags"], row["training_seconds"]) == ("suspect", ["zero-gradient"], 9)


@pytest.mark.parametrize("status", ["failed", "not run", "not applicable"])
def test_rows_without_a_number_say_none(status: str) -> None:
    (row,) = rows([result(status=status, more={"estimate_seconds": math.inf})])
    assert row["robust_accuracy"] is row["ci_low"] is row["clean_accuracy"] is row["estimate_seconds"] is None


# the console


def test_the_console_has_a_row_a_cell_and_never_reads_markup() -> None:
    found = [*MIXED, result("1100", defense="x"), result("1100", defense="x:y=[red]x[/red]\x1b[31m")]
    text = io.StringIO()
    Console(file=text, width=250, color_system=None).print(console_table(found))
    assert console_table(found).row_count == len(found)
    assert "[red]x[/red]" in text.getvalue() and "\x1b" not in text.getvalue()
    assert "(1.000 [0.510, 1.000])" in text.getvalue()  # the suspect one
    assert console_table([]).row_count == 0


def test_a_csv_holds_the_rows(tmp_path: Path) -> None:
    found = [result("0111", attack="fgsm"), result("0011", attack="bim")]
    store(tmp_path, "a", *found)
    lines = build(tmp_path, tmp_path / "rows.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].split(",")[:4] == list(rows(found)[0])[:4]
    assert sorted(frame(found)["robust_accuracy"]) == [0.5, 0.75]

"""APE-GAN's tables: what the tool reads out of results, and the figures themselves, which train for minutes.

RBG_TEST_STORE names a directory to keep what is trained in between runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rbg_figures import ape_gan_tables as tool

RBG = [sys.executable, "-c", "from robustbench_gan.cli import main; main()"]
# Small enough for minutes of a CPU.
ON_FGSM = "ape-gan:loss=author,width=16,epochs=1"


def result(clean, robust, size=None, attack="fgsm", status="ok"):
    outcomes = SimpleNamespace(clean=[clean], robust=[robust], size=[size or [0.0] * len(clean)])
    cell = SimpleNamespace(attack=attack)
    return SimpleNamespace(cell=cell, outcomes=outcomes, status=status, reason="")


def test_every_row_has_the_published_errors_beside_the_two_measured():
    results = [result("1111", "0" * (4 - n % 4) + "1" * (n % 4)) for n in range(2 * len(tool.ATTACKS))]
    rows = [line.split(" | ") for line in tool.rq1(results).splitlines()[2:]]
    assert [row[0].strip("| ") for row in rows] == [name for name, *_ in tool.ATTACKS] and len(rows) == 7
    assert rows[1][2:] == ["96.3", "50.0", "2.8", "25.0 |"]
    published = {"lbfgs": 2.2, "deepfool": 2.2, "jsma": 38.6, "cw:preset=fast": 1.5}
    assert {row[0].strip("| "): float(row[4]) for row in rows if row[0].strip("| ") in published} == published


def test_clean_errors_stand_above_those_under_noise():
    alone = [result("1110", "1110")] * 3
    defended = [result("1100", bits) for bits in ("1100", "1000", "0000")]
    lines = tool.rq3([*alone, *defended]).splitlines()[2:]
    assert lines == [
        "| clean | 25.0 | 50.0 |",
        "| uniform noise, linf 0.1 | 25.0 | 50.0 |",
        "| uniform noise, linf 0.2 | 25.0 | 75.0 |",
        "| uniform noise, linf 0.3 | 25.0 | 100.0 |",
    ]


def test_white_box_counts_only_examples_within_the_radius_and_gray_box_all():
    seen = result("1110", "0100", size=[3.5, 2.0, 2.5, 0.0])
    assert tool.survivors(seen) == [False, True, False, False]
    assert tool.survivors(seen, 3.0) == [True, True, False, False]
    lines = tool.both_directions([seen] * 5).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == ["gray-box"] * 3 + ["white-box"] * 2
    assert [line.split(" | ")[3][:5] for line in lines] == ["0.250"] * 3 + ["0.500"] * 2


def test_a_cell_without_a_number_says_why():
    nothing = SimpleNamespace(
        outcomes=None, status="not run", reason="too dear", cell=SimpleNamespace(attack="x")
    )
    assert tool.error(nothing) == "not run too dear" and tool.survivors(nothing) == []


def printed(tmp_path, *arguments):
    """The rows that the tool prints, as cells."""
    cache = os.environ.get("RBG_TEST_STORE") or str(tmp_path / "cache")
    done = subprocess.run(
        [*RBG, "reproduce", "ape-gan-tables", str(tmp_path / "out"), *arguments],
        capture_output=True, text=True, check=True, env={**os.environ, "RBG_CACHE_DIR": cache},
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.figures
@pytest.mark.slow
def test_trained_on_fgsm_alone_it_helps_against_every_attack_of_its_table(tmp_path):
    rows = printed(tmp_path, "--table", "rq1", "--classifier", "small-cnn", "--defense", ON_FGSM)
    assert len(rows) == 7
    assert all(float(row[5]) < float(row[3]) for row in rows)


@pytest.mark.figures
@pytest.mark.slow
def test_clean_and_noisy_images_are_left_right(tmp_path):
    rows = printed(tmp_path, "--table", "rq3", "--classifier", "small-cnn", "--defense", ON_FGSM)
    assert all(float(row[2]) <= float(row[1]) + 5.0 for row in rows)  # RQ3: no harm; no number is published

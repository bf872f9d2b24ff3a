"""Athalye's distance for Defense-GAN: what the tool reads out of results, and the figure itself."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from rbg_figures import defense_gan_attack as tool

from robustbench_gan.nouns.spec import Spec

WIDTH_64 = "defense-gan:width=64,iterations=200,restarts=10,gan_steps=1500,gan_lr=0.0005,critic_steps=2,ema=0.99,gan_decay=true"


def result(attack, eps, first, clean, robust, size, status="ok"):
    outcomes = SimpleNamespace(clean=[clean], robust=[robust], size=[size])
    cell = SimpleNamespace(attack=Spec.of(attack), eps=eps, first=first)
    return SimpleNamespace(cell=cell, outcomes=outcomes, status=status, reason="")


def test_the_three_readings_of_0_005_on_784_pixels():
    assert {name: round(eps, 2) for name, eps in tool.READINGS.items()} == {
        "l2/784": 3.92, "mse": 1.98, "l2/sqrt(784)": 0.14
    }  # fmt: skip


def test_a_minimal_example_beyond_the_distance_did_not_fool_within_it():
    seen = result("manifold", math.inf, 150, clean="1110", robust="0010", size=[1.0, 3.0, 0.5, 0.1])
    assert tool.survivors(seen, 3.92) == [False, False, True, False]
    assert tool.survivors(seen, 1.98) == [False, True, True, False]
    assert tool.survivors(seen, 0.14) == [True, True, True, False]


def test_the_table_pools_the_chunks_of_one_attack_and_keeps_its_readings_apart():
    sizes = [0.0] * 4
    results = [
        result("bpda:steps=4", 0.005 * 784, 150, "1111", "1000", sizes),
        result("bpda:steps=4", 0.005 * 784, 250, "1101", "0000", sizes, status="suspect"),
        result("bpda:steps=4", (0.005 * 784) ** 0.5, 150, "1111", "1110", sizes),
        result("manifold", math.inf, 150, "1111", "0000", [2.0] * 4),
    ]
    lines = tool.table(results).splitlines()[2:]
    shares = [re.sub(r" \[.*?\]", "", line) for line in lines]
    assert shares == [
        "| none |  | 0 | 0.875 | 8 | ok |",
        "| bpda | l2/784 | 3.92 | 0.125 | 8 | ok, suspect |",
        "| bpda | mse | 1.98 | 0.750 | 4 | ok |",
        "| manifold | l2/784 | 3.92 | 0.000 | 4 | ok |",
        "| manifold | mse | 1.98 | 1.000 | 4 | ok |",
        "| manifold | l2/sqrt(784) | 0.14 | 1.000 | 4 | ok |",
    ]


@pytest.mark.figures
def test_bpda_breaks_defense_gan_at_the_published_distance(tmp_path):
    command = [
        sys.executable,
        "-c",
        "from robustbench_gan.cli import main; main()",
        "reproduce",
        "defense-gan-attack",
        str(tmp_path),
        WIDTH_64,
        "--only",
        "bpda",
        "--reading",
        "l2/784",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    row = next(line for line in done.stdout.splitlines() if line.startswith("| bpda | l2/784"))
    _, _, _, _, accuracy, n, status, _ = (cell.strip() for cell in row.split("|"))
    assert (int(n), status) == (500, "ok")
    assert float(accuracy.split()[0]) <= 0.60  # Athalye et al. 2018: 0.55

"""The statistics behind flags across cells: the sign test, Holm's correction, and how rarely they accuse."""

from __future__ import annotations

import random

import numpy as np
import pytest
from planted_standing import N, record

from robustbench_gan.flags.across import across
from robustbench_gan.flags.paired import at_least, chance_above, holm


def test_the_sign_test_is_exact() -> None:
    one, other = np.array([1.0, 1, 1, 1, 0, 0]), np.array([0.0, 0, 0, 0, 0, 1])
    assert chance_above(one, other) == pytest.approx(6 / 32)  # 4 or more heads of 5
    assert chance_above(other, one) == pytest.approx(31 / 32)
    assert chance_above(one, one) == 1.0
    assert at_least(2, 3, 0.1) == pytest.approx(3 * 0.01 * 0.9 + 0.001)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_many_honest_comparisons_hardly_ever_accuse_anybody() -> None:
    """60 runs of 36 comparisons between attacks of equal strength on images of their own luck."""
    draw, accused = random.Random(0), 0
    for _ in range(60):
        cells = [
            record("".join("01"[draw.random() < 0.5] for _ in range(N)), attack=f"a{k}:steps={steps}")
            for k in range(6)
            for steps in (40, 1)
        ]
        found = across(cells)
        assert found.comparisons == 36
        accused += bool(found.found)
    assert accused <= 6  # 5 % of 60 are 3; one comparison alone at 0.05 would accuse in nearly every run

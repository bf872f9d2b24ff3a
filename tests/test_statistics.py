"""Intervals and worst cases over judge seeds: known answers, and that they cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robustbench_gan.nouns.statistics import Interval, interval, worst_case


def wilson(k, n, z=1.959963984540054):
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return centre - half, centre + half


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 10), (10, 10), (3, 10), (50, 100), (999, 1000)])
def test_yes_or_no_outcomes_get_wilsons_interval(k, n):
    found = interval([1.0] * k + [0.0] * (n - k), "any")
    low, high = wilson(k, n)
    assert (found.value, found.n) == (k / n, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))
    assert str(Interval(value=0.5, low=0.25, high=0.75, n=4)) == "0.500 [0.250, 0.750]"


def test_the_bootstrap_interval_is_the_same_each_time_and_depends_on_its_text():
    values = np.random.default_rng(0).integers(0, 3, 50) / 2
    assert interval(values, "a") == interval(values, "a")
    assert interval(values, "a") != interval(values, "b")


def test_the_bootstrap_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(100):
        found = interval(rng.integers(0, 5, 100) / 4, str(trial))  # true mean 0.5
        covered += found.low <= 0.5 <= found.high
    assert 90 <= covered <= 100


def test_the_bootstrap_interval_has_the_width_of_the_standard_error():
    values = np.random.default_rng(2).integers(0, 5, 400) / 4
    found = interval(values, "x")
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert found.low < found.value < found.high


def test_with_one_seed_the_worst_case_is_the_minimum():
    robust = np.array([[[1, 1, 0, 1]], [[1, 0, 0, 1]]], dtype=bool)
    assert worst_case(robust).tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize("seeds", [2, 3, 4, 10])
def test_attacks_that_do_not_vary_with_the_seed_give_the_minimum(seeds):
    fixed = np.random.default_rng(3).random((3, 1, 40)) < 0.5
    assert np.array_equal(worst_case(np.repeat(fixed, seeds, axis=1)), fixed[:, 0].min(axis=0))


@pytest.mark.parametrize("seeds", [2, 5, 10])
def test_one_attack_is_its_own_worst_case(seeds):
    robust = np.random.default_rng(4).random((1, seeds, 30)) < 0.5
    assert np.allclose(worst_case(robust), robust[0].mean(axis=0))


def test_ties_go_to_the_attack_that_is_stronger_over_all_samples():
    weak, strong = np.ones((2, 100), dtype=bool), np.zeros((2, 100), dtype=bool)
    strong[:, 0] = True  # on sample 0 both fail; elsewhere only the strong one wins
    weak[1, 0] = False
    assert worst_case(np.stack([weak, strong]))[1:].max() == 0
    assert worst_case(np.stack([weak, strong]))[0] == worst_case(np.stack([strong, weak]))[0]


@pytest.mark.parametrize("seeds", [2, 4, 5])
def test_choosing_among_equal_noise_is_unbiased_where_the_naive_minimum_is_not(seeds):
    """Eight attacks of the same true 0.6: picking the luckiest and reporting its luck would say far less."""
    robust = np.random.default_rng(5).random((8, seeds, 20000)) < 0.6
    crossed, naive = worst_case(robust).mean(), robust.mean(axis=1).min(axis=0).mean()
    assert crossed == pytest.approx(0.6, abs=0.012)
    assert naive < 0.45
    small = np.random.default_rng(7).random((100, 8, seeds, 100)) < 0.6
    assert np.mean([worst_case(one).mean() for one in small]) == pytest.approx(0.6, abs=0.015)


def test_the_truly_strongest_attack_is_found():
    rng = np.random.default_rng(6)
    robust = rng.random((3, 40, 500)) < np.array([0.9, 0.2, 0.8])[:, None, None]
    assert worst_case(robust).mean() == pytest.approx(0.2, abs=0.02)

"""Detection: known answers of ROC curves, areas under them, rates and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from robustbench_gan.nouns.detection import (
    CURVE_POINTS,
    auc,
    auc_interval,
    compact,
    measure,
    roc,
    threshold_at,
)
from robustbench_gan.nouns.record import FALSE_POSITIVE_RATES

N = 20


def drawn(n, m, seed=0, shift=0.7, levels=None):
    """Scores of n clean images and m examples; from `levels` values alone, so that they tie."""
    rng = np.random.default_rng(seed)
    clean, attacked = rng.normal(size=n), rng.normal(size=m) + shift
    return tuple(a if levels is None else np.round(a * levels) / levels for a in (clean, attacked))


def measured(clean, attacked, moved=None, names=(), held_out=None):
    """`measure`, by default of examples that all were moved, with the first judge seed's clean images held out."""
    moved = np.ones(attacked.shape[:2], bool) if moved is None else moved
    return measure(clean, attacked, moved, clean[0] if held_out is None else held_out, names, "x")


def area(false_rates, true_rates):
    return float(np.sum(np.diff(false_rates) * (np.asarray(true_rates)[1:] + true_rates[:-1])) / 2)


# ---- the curve and its area


@pytest.mark.parametrize(
    ("clean", "attacked", "expected"),
    [
        ([0, 1], [2, 3], 1.0),
        ([2, 3], [0, 1], 0.0),
        ([1, 1], [1, 1, 1], 0.5),
        ([1, 3], [2], 0.5),
        ([0, 1, 2], [1], 0.5),
        ([0, 1, 2, 3], [2, 5], 7 / 8 - 1 / 16),
        ([-np.inf, 0.0], [0.0, np.inf], 7 / 8),
    ],
)
def test_auc_of_a_few_scores_is_what_a_hand_counts(clean, attacked, expected):
    assert auc(np.array(clean, float), np.array(attacked, float)) == expected


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 30), (200, 90)])
def test_auc_is_mann_whitneys_and_the_area_of_the_curve(n, m, levels):
    clean, attacked = drawn(n, m, seed=n, levels=levels)
    value = auc(clean, attacked)
    assert value == pytest.approx(mannwhitneyu(attacked, clean).statistic / (n * m), abs=1e-12)
    assert value == pytest.approx(area(*roc(clean, attacked)), abs=1e-12)
    assert auc(attacked, clean) == pytest.approx(1 - value, abs=1e-12)


@pytest.mark.parity
@pytest.mark.parametrize("levels", [None, 3])
def test_the_curve_is_scikit_learns(levels):
    metrics = pytest.importorskip("sklearn.metrics")
    clean, attacked = drawn(150, 80, levels=levels)
    truth, scores = np.r_[np.zeros(150), np.ones(80)], np.r_[clean, attacked]
    false_rates, true_rates, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    ours = roc(clean, attacked)
    assert np.allclose(ours[0], false_rates) and np.allclose(ours[1], true_rates)
    assert auc(clean, attacked) == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-12)


def test_the_curve_moves_both_ways_at_once_where_scores_tie():
    false_rates, true_rates = roc(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    assert list(zip(false_rates, true_rates, strict=True)) == [(0, 0), (0, 0.5), (0.5, 1), (1, 1)]


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0, 9.0])
@pytest.mark.parametrize("n", [3, 40, 3000])
def test_the_compact_curve_is_short_and_loses_little(n, shift):
    clean, attacked = drawn(n, n, shift=shift)
    whole = roc(clean, attacked)
    kept = compact(*whole)
    assert kept[0] == (0, 0) and kept[-1] == (1, 1) and 2 <= len(kept) <= CURVE_POINTS
    assert kept == sorted(kept) and [t for _, t in kept] == sorted(t for _, t in kept)
    points = {(round(f, 6), round(t, 6)) for f, t in zip(*whole, strict=True)}
    assert set(kept) <= points  # each is an operating point that a threshold gives
    assert area(*zip(*kept, strict=True)) == pytest.approx(auc(clean, attacked), abs=0.01)


def test_a_curve_of_few_corners_is_kept_whole_and_a_straight_stretch_is_its_ends():
    assert compact(*roc(np.arange(100.0), np.arange(100.0) + 1000)) == [(0, 0), (0, 1), (1, 1)]
    assert compact(*roc(np.arange(100.0), np.arange(100.0))) == [(0, 0), (1, 1)]


def test_the_compact_curve_is_dense_where_false_positives_are_few():
    kept = compact(*roc(*drawn(5000, 5000, shift=1.5)))
    assert sum(f <= 0.01 for f, _ in kept) >= 10


# ---- rates at a fixed share of false positives


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("rate", [*FALSE_POSITIVE_RATES, 0.5])
@pytest.mark.parametrize("n", [1000, 2900])
def test_the_threshold_is_the_lowest_that_rejects_no_more_than_its_share(n, rate, levels):
    clean, _ = drawn(n, 1, levels=levels)
    threshold = threshold_at(clean, rate)
    assert (clean > threshold).sum() <= round(rate * n, 6)
    lower = clean[clean < threshold]
    assert (clean > lower.max()).sum() > rate * n
    if levels is None:
        assert (clean > threshold).sum() == int(round(rate * n, 6))  # 0.01 * 2900 is below 29 in floats


@pytest.mark.parametrize(
    ("images", "seen"),
    [(19, ()), (20, (0.05,)), (99, (0.05,)), (100, (0.01, 0.05)), (1000, (0.001, 0.01, 0.05))],
)
def test_a_rate_that_so_few_validation_images_cannot_show_has_no_number(images, seen):
    """However many are judged, and under however many seeds."""
    clean, attacked = (np.repeat(a.reshape(1, -1, 1), 5, axis=0) for a in drawn(2000, 2000))
    held_out, _ = drawn(images, 1, seed=1)
    together = measured(clean, attacked, held_out=held_out[:, None]).together
    for rates in (together.tpr, together.fpr):
        shown = [at for at, rate in zip(FALSE_POSITIVE_RATES, rates, strict=True) if rate is not None]
        assert tuple(shown) == seen


def test_thresholds_at_fixed_rates_come_from_validation_images_alone():
    """Judged clean images that score higher than those move what is reached, and not the threshold."""
    held_out = np.arange(1000.0)[:, None]  # 0.1%: above 998 lies one; 1%: 989; 5%: 949
    attacked = np.array([949.5, 949.0, 990.0, 2000.0]).reshape(1, 4, 1)
    for shift, reached in ((0.0, [0.001, 0.01, 0.05]), (50.0, [0.051, 0.06, 0.1]), (-60.0, [0, 0, 0])):
        clean = held_out[None] + shift
        wide = np.resize(attacked, clean.shape)
        (one,) = measured(clean, wide, names=("one",), held_out=held_out).detectors
        assert [rate.value for rate in one.tpr] == [0.25, 0.5, 0.75]
        assert [rate.value for rate in one.fpr] == pytest.approx(reached) and one.fpr[0].n == 1000


@pytest.mark.parametrize(("true", "n"), [(0.6, 40), (0.9, 60), (0.98, 100)])
def test_the_auc_interval_covers_the_truth_at_least_95_times_in_100(true, n):
    rng, shift, covered = np.random.default_rng(3), norm.ppf(true) * np.sqrt(2), 0
    for _ in range(400):
        low, high = auc_interval(auc(rng.normal(size=n), rng.normal(shift, size=n)), n, n)
        covered += low <= true <= high
    assert covered / 400 >= 0.93


def test_the_auc_interval_has_a_width_at_the_ends_and_shrinks_with_images():
    widths = [np.diff(auc_interval(1.0, n, n))[0] for n in (1, 20, 500)]
    assert 1 > widths[0] > widths[1] > widths[2] > 0
    assert auc_interval(1.0, 20, 20)[1] == 1 and auc_interval(0.0, 20, 20)[0] == 0
    low, high = auc_interval(0.8, 50, 70)
    assert low < 0.8 < high and (1 - high, 1 - low) == pytest.approx(auc_interval(0.2, 50, 70))


# ---- a detector's figures


def test_a_detectors_figures_are_what_a_hand_counts():
    clean = np.array([-3.0, -2.0, -1.0, 1.0] * 5).reshape(1, N, 1)
    attacked = np.array([-4.0, 0.0, 0.5, 2.0] * 5).reshape(1, N, 1)
    found = measured(clean, attacked, names=("one",))
    (one,) = found.detectors
    assert (found.clean, found.positive, found.positives) == (N, N, "perturbed")
    assert (one.name, found.together.name) == ("one", "together")
    assert one.clean_rejected.value == 0.25 and one.attack_rejected.value == 0.5
    assert one.auc.value == (0 + 3 + 3 + 4) / 16 and one.auc.n == N
    assert one.tpr[:2] == [None, None] and one.tpr[2].value == 0.25  # one false positive in 20 ties with five
    assert one.model_copy(update={"name": "together"}) == found.together


def test_examples_left_as_they_were_are_no_positives():
    clean = np.zeros((1, 4, 1))
    attacked = np.array([5.0, 5.0, 0.0, 0.0]).reshape(1, 4, 1)
    moved = np.array([[True, True, False, False]])
    found = measured(clean, attacked, moved)
    assert found.positive == 2 and found.together.auc.value == 1 and found.together.attack_rejected.n == 2
    nothing = measured(clean, attacked, np.zeros((1, 4), bool))
    assert nothing.positive == 0 and nothing.together.auc is None and nothing.together.roc == []
    assert nothing.together.attack_rejected is None and nothing.together.tpr == [None] * 3
    assert nothing.together.clean_rejected.value == 0


def test_together_rejects_where_any_does():
    rng = np.random.default_rng(0)
    clean, attacked = rng.normal(size=(2, 30, 3)) - 1, rng.normal(size=(2, 30, 3))
    found = measured(clean, attacked, names=("a", "b", "c"))
    assert [d.name for d in found.detectors] == ["a", "b", "c"]
    assert found.together.clean_rejected.value == pytest.approx((clean > 0).any(axis=2).mean())
    assert found.together.attack_rejected.value == pytest.approx((attacked > 0).any(axis=2).mean())
    worst = measured(clean.max(axis=2, keepdims=True), attacked.max(axis=2, keepdims=True))
    assert worst.together == found.together
    for at, d in enumerate(found.detectors):
        alone = measured(clean[:, :, [at]], attacked[:, :, [at]], names=(d.name,))
        assert alone.detectors == [d]


def test_several_judge_seeds_average_and_add_no_images():
    clean, attacked = np.zeros((2, 4, 1)), np.array([[1, 1, 1, -1], [1, -1, 1, -1]], float)[:, :, None]
    moved = np.array([[True] * 4, [True, True, False, True]])
    found = measured(clean, attacked, moved).together
    assert found.attack_rejected.value == (1 + 0.5 + 1 + 0) / 4 and found.attack_rejected.n == 4
    assert found.auc.n == 4 and found.auc.value == 4 / 7  # of seven examples that were moved


def test_without_detectors_there_is_nothing_and_unnamed_ones_are_numbered():
    empty = np.zeros((1, 3, 0))
    assert measured(empty, empty) is None
    two = np.zeros((1, 3, 2))
    for names in ((), ("one",)):
        found = measured(two, two, names=names)
        assert [d.name for d in found.detectors] == ["detector 0", "detector 1"]


def test_only_the_order_of_scores_decides_the_curve():
    clean, attacked = (a.reshape(1, -1, 1) for a in drawn(200, 200))
    one, two = (measured(f(clean), f(attacked)).together for f in (np.array, np.exp))
    assert (one.auc, one.tpr, one.roc) == (two.auc, two.tpr, two.roc)
    assert one.clean_rejected != two.clean_rejected  # exp is above 0: the defense's own threshold moved

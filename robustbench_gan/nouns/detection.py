"""How well detectors tell an attack's examples from clean images: ROC, AUC, and TPR at fixed FPR. No torch.

ROC and AUC describe: they are drawn from the judged images themselves. Every threshold comes from validation images:
that which a defense rejects by, which stands at score 0, and those of the fixed FPR. What share of the judged clean
images lies above one is therefore a result, given beside the TPR.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from robustbench_gan.nouns.record import FALSE_POSITIVE_RATES, Detection, Detector
from robustbench_gan.nouns.statistics import Interval, interval

TOGETHER = "together"
CURVE_POINTS = 50
Z = 1.959963984540054  # the 97.5% point of the normal distribution
Numbers = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


def measure(
    clean: Numbers,
    attacked: Numbers,
    perturbed: Bools,
    validation: Numbers,
    names: Sequence[str],
    seed_text: str,
) -> Detection | None:
    """Measure every detector and all together, from scores (K, N, M) of N images under K judge seeds.

    Thresholds at fixed FPR are read off the scores of clean `validation` images, (V, M), none of which is judged.

    Negatives are the clean images, positives the examples that the attack moved at all, (K, N) bool, whether or not
    they fool the classifier: so it is in the papers' curves, and an example left as it was is a clean image. Together
    rejects where any does, so its score is the largest. None without detectors.
    """
    columns = clean.shape[2]
    if columns == 0:
        return None
    labels = names if len(names) == columns else [f"detector {at}" for at in range(columns)]

    def detector(name: str, negative: Numbers, positive: Numbers, held_out: Numbers) -> Detector:
        at_fixed = [threshold_at(held_out, rate) for rate in FALSE_POSITIVE_RATES]
        return _detector(name, negative, positive, perturbed, at_fixed, f"{seed_text},{name}")

    return Detection(
        clean=clean.shape[1],
        positive=int(perturbed.any(axis=0).sum()),
        validation=len(validation),
        detectors=[
            detector(label, clean[:, :, at], attacked[:, :, at], validation[:, at])
            for at, label in enumerate(labels)
        ],
        together=detector(TOGETHER, clean.max(axis=2), attacked.max(axis=2), validation.max(axis=1)),
    )


def _detector(
    name: str,
    clean: Numbers,
    attacked: Numbers,
    perturbed: Bools,
    thresholds: Sequence[float | None],
    seed_text: str,
) -> Detector:
    """One detector's figures from its scores (K, N), and thresholds, one for each fixed FPR."""
    negatives, positives = clean.ravel(), attacked[perturbed]

    def fired(threshold: float) -> Interval | None:
        return share(attacked > threshold, perturbed, seed_text)

    def rejected(threshold: float) -> Interval:
        return interval((clean > threshold).mean(axis=0), seed_text)

    return Detector(
        name=name,
        clean_rejected=rejected(0.0),
        attack_rejected=fired(0.0),
        auc=_auc_with_interval(negatives, positives, perturbed),
        tpr=[None if threshold is None else fired(threshold) for threshold in thresholds],
        fpr=[None if threshold is None else rejected(threshold) for threshold in thresholds],
        roc=compact(*roc(negatives, positives)) if len(positives) else [],
    )


def share(fired: Bools, perturbed: Bools, seed_text: str) -> Interval | None:
    """The share of positive images on which it fired, each the mean of its judge seeds; None without positives."""
    images = perturbed.any(axis=0)
    if not images.any():
        return None
    rate = (fired & perturbed).sum(axis=0)[images] / perturbed.sum(axis=0)[images]
    return interval(rate, seed_text)


def threshold_at(held_out: Numbers, rate: float) -> float | None:
    """The lowest threshold above which at most a share `rate` of the held-out clean images' scores (V,) lies.

    None where there are too few images to see that rate at all: of 100 clean images none can be 0.1%.
    """
    above = allowed(len(held_out), rate)
    return float(np.sort(held_out)[::-1][above]) if above else None


def allowed(images: int, rate: float) -> int:
    """How many of so many clean images a threshold of this false positive rate may reject."""
    return math.floor(rate * images + 1e-9)


def roc(negatives: Numbers, positives: Numbers) -> tuple[Numbers, Numbers]:
    """Every point of the ROC, from (0, 0) to (1, 1), as false and true positive rates; ties move both at once."""
    thresholds = np.unique(np.concatenate([negatives, positives]))[::-1]

    def at_least(scores: Numbers) -> Numbers:
        below = np.searchsorted(np.sort(scores), thresholds, side="left")
        return np.concatenate([[0.0], 1 - below / len(scores)])

    return at_least(negatives), at_least(positives)


def auc(negatives: Numbers, positives: Numbers) -> float:
    """The chance that a positive scores above a negative, a tie counting half (Mann and Whitney): the ROC's area."""
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, side="left")
    not_above = np.searchsorted(ordered, positives, side="right")
    return float((below + not_above).mean() / (2 * len(negatives)))


def _auc_with_interval(negatives: Numbers, positives: Numbers, perturbed: Bools) -> Interval | None:
    images = int(perturbed.any(axis=0).sum())
    if images == 0:
        return None
    value = auc(negatives, positives)
    low, high = auc_interval(value, perturbed.shape[1], images)
    return Interval(value=value, low=low, high=high, n=images)


def auc_interval(value: float, negatives: int, positives: int) -> tuple[float, float]:
    """The 95% interval of an AUC: where it would lie within 1.96 of its own standard errors (Newcombe 2006, method 5).

    Like Wilson's for a proportion it has a width at 0 and 1 too. `negatives` and `positives` count images, not
    answers: judge seeds add no images. Taking both for independent errs on the wide side, since they come in pairs.
    """

    def bound(outer: float) -> float:
        inner = value
        for _ in range(60):  # bisection; the outer end is excluded, the inner is not
            middle = (inner + outer) / 2
            excluded = abs(middle - value) > Z * math.sqrt(_auc_variance(middle, negatives, positives))
            inner, outer = (inner, middle) if excluded else (middle, outer)
        return inner

    return bound(0.0), bound(1.0)


def _auc_variance(area: float, negatives: int, positives: int) -> float:
    """Hanley and McNeil's variance (1982) with both counts but the divisors' replaced by their mean."""
    more = (negatives + positives) / 2 - 1
    spread = 1 + more * ((1 - area) / (2 - area) + area / (1 + area))
    return area * (1 - area) * spread / (negatives * positives)


def compact(
    false_rates: Numbers, true_rates: Numbers, points: int = CURVE_POINTS
) -> list[tuple[float, float]]:
    """At most `points` points of a ROC, each a point of it: all corners where they are few.

    Otherwise the highest at false positive rates of equal steps, and of equal ratios below, for what matters are
    the small ones.
    """
    keep = _corners(false_rates, true_rates)
    if len(keep) > points:
        smallest = max(float(false_rates[false_rates > 0].min()), 1e-4)
        half = points // 2 - 1
        asked = np.unique([0.0, *np.geomspace(smallest, 1, half), *np.linspace(0, 1, half)])
        highest = np.searchsorted(false_rates, asked, side="right") - 1
        keep = np.unique([0, *highest, len(false_rates) - 1])
    return [(round(float(false_rates[at]), 6), round(float(true_rates[at]), 6)) for at in keep]


def _corners(false_rates: Numbers, true_rates: Numbers) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Positions where the curve turns, its ends among them."""
    right, up = np.diff(false_rates), np.diff(true_rates)
    turns = ~np.isclose(right[:-1] * up[1:], right[1:] * up[:-1], rtol=0, atol=1e-15)
    return np.flatnonzero(np.concatenate([[True], turns, [True]]))

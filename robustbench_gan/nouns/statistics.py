"""Numbers over samples: proportions with their intervals, spreads of sizes, the worst of several attacks. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from robustbench_gan.nouns.fields import Validated

BOOTSTRAP_DRAWS = 2000


class Interval(Validated):
    """A proportion with its n and 95% interval."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Spread(Validated):
    """Mean, median and largest of some sizes."""

    mean: float
    median: float
    max: float


def interval(per_sample: Sequence[float] | np.ndarray[Any, Any], seed_text: str) -> Interval:
    """The mean of per-sample outcomes in [0, 1], (N,), with a 95% interval.

    Wilson's where every outcome is yes or no; else a bootstrap over samples, seeded from a text, so that the
    same result always prints the same interval.
    """
    values = np.asarray(per_sample, dtype=np.float64)
    n, mean = len(values), float(values.mean())
    if np.isin(values, (0.0, 1.0)).all():
        from scipy.stats import binomtest  # slow to import, and most commands print no interval

        ci = binomtest(round(values.sum()), n).proportion_ci(method="wilson")
        return Interval(value=mean, low=float(ci.low), high=float(ci.high), n=n)
    seed = int.from_bytes(hashlib.sha256(seed_text.encode()).digest()[:8], "big")
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, n, size=n)].mean() for _ in range(BOOTSTRAP_DRAWS)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(value=mean, low=float(low), high=float(high), n=n)


def worst_case(robust: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Mean over judge seeds of the worst attack of each sample: (A, K, N) in, (N,) in [0, 1] out.

    With K > 1 the worst attack is chosen on one half of the seeds and reported on the other, both ways round,
    so that a minimum over noisy numbers does not count the noise as the attacker's skill. Where attacks tie on a
    sample, the one that is stronger over all samples of the choosing half is taken.
    """
    _, seeds, _ = robust.shape
    if seeds == 1:
        return np.asarray(robust[:, 0].min(axis=0), dtype=np.float64)
    halves = [np.arange(seeds)[0::2], np.arange(seeds)[1::2]]
    reported = np.zeros(robust.shape[2])
    for choose, report in (halves, halves[::-1]):
        seen = robust[:, choose].mean(axis=1)
        strongest_first = seen.mean(axis=1).argsort(kind="stable")
        worst = strongest_first[seen[strongest_first].argmin(axis=0)]
        scores = robust[:, report].sum(axis=1)
        reported += np.take_along_axis(scores, worst[None], axis=0)[0] / seeds
    return reported

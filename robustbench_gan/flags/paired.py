"""Is one accuracy above another on the same images, and what do many such questions do to the answer? No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Numbers = np.ndarray[Any, np.dtype[np.float64]]


def chance_above(one: Numbers, other: Numbers) -> float:
    """The exact one-sided sign test over images (McNemar's where each is yes or no): the p that `one` is not above.

    Both are (N,), the mean over judge seeds of an image's outcome. Images on which they tie say nothing.
    """
    above, below = int((one > other).sum()), int((one < other).sum())
    return at_least(above, above + below, 0.5)


def at_least(count: int, tries: int, share: float) -> float:
    """The chance of `count` or more in so many tries that each succeed with this chance."""
    if count == 0:
        return 1.0
    from scipy.stats import binom  # slow to import, and most runs leave nothing to test

    return float(binom.sf(count - 1, tries, share))


def holm(chances: Sequence[float]) -> list[float]:
    """Each p corrected for having asked all of the questions (Holm 1979): those below a level err at most so often.

    The smallest is multiplied by the number of questions, the next by one less, and none gets below the one before it.
    """
    adjusted, largest = [1.0] * len(chances), 0.0
    for rank, at in enumerate(sorted(range(len(chances)), key=lambda at: chances[at])):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[at]))
        adjusted[at] = largest
    return adjusted

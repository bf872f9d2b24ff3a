"""Where red flags are raised: every number with its meaning. Shares and accuracies are in [0, 1].

Those of a source say so; the others are this project's own choice. What is counted while a cell runs is decided in
counting.py: a change there runs cells again, one here only derives flags anew.
"""

from __future__ import annotations

import math
from typing import Final

# gradients
ZERO_GRADIENT_SHARE: Final = 0.05  # of attackable samples; above it a zero or NaN gradient is no accident
SATURATED_SHARE: Final = 0.05  # of attackable samples whose loss is flat since the answer is too sure
PROBABILITY_SLACK: Final = 1e-5  # how far outputs may leave [0, 1] and their sum 1 (AutoAttack's check)
MOVED_SHARE: Final = 0.5  # a linf attack that uses less of eps than this on average has hardly attacked

# randomness
JUDGE_SEEDS: Final = 3  # a randomised defense is judged under at least so many seeds

# strength
LEAST_STEPS: Final = 20  # of an iterative linf attack
GREATEST_RATE: Final = 1.0  # of an optimiser on pixels in [0, 1]
HALF: Final = 0.5  # a linf ball in which every image can be made the same grey
ABOVE_CHANCE: Final = 0.05  # accuracy above 1 / classes that chance may leave there
UNBOUNDED_FAILURES: Final = 0.01  # of attackable samples that an attack without a bound may fail on
MNIST_CLASS_DISTANCE: Final = (
    9.0  # median l2 from a digit of MNIST to the nearest of another class is below this
)

# the system
AGREEMENT: Final = 0.8  # a substitute that agrees less with its oracle is no evidence
DESTROYED: Final = 0.03  # mean squared distance of a purified clean image from the image
COLLAPSE: Final = 0.2  # clean accuracy that a sound purifier does not cost
ALL_ALIKE: Final = 0.001  # of the variance between images: what a purifier leaves them must not be less
UNLIKE: Final = 0.1  # a correlation of purified images with the images below this is none
LIKENESS_IMAGES: Final = 100  # so many images do not correlate above it by chance
OUTSIDE_SHARE: Final = 0.01  # of the values that a classifier is shown, well outside [0, 1]
STOPPED_SHARE: Final = 0.5  # of what stands, by detectors alone
CLEAN_REJECTED: Final = 0.1  # of clean images

# comparisons
MARGIN: Final = 0.01  # a difference in accuracy that matters
DEVIATIONS: Final = 2.0  # standard errors of an accuracy, where samples cannot be paired
LEVEL: Final = 0.05  # the chance of any false alarm among all comparisons of one run


def tolerance(accuracy: float, n: int) -> float:
    """How far an accuracy over n samples may lie above another before it is odd, where samples are not paired."""
    return max(MARGIN, DEVIATIONS * math.sqrt(accuracy * (1 - accuracy) / n))

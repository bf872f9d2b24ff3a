"""What the checks of a record count with: near enough, whole, sane. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from robustbench_gan.nouns.statistics import Interval, interval

ROUNDING: Final = 1e-6  # of sums in float32, and of sizes in records of schema 1, relative and absolute


EXACT: Final = 1e-9  # of means in float64


LARGEST: Final = 2**53  # of counts


Bools = np.ndarray[Any, np.dtype[np.bool_]]


def is_interval(found: Interval, yes_or_no: bool) -> bool:
    """Is this the interval of a share of n images? One that was bootstrapped can only be bracketed."""
    low, value, high = found.low, found.value, found.high
    if (
        not 0 <= low <= value + EXACT
        or not value - EXACT <= high <= 1 + EXACT
        or not 0 <= value <= 1
        or found.n < 1
    ):
        return False
    if not yes_or_no:
        return True
    count = round(value * found.n)
    wilson = interval([1.0] * count + [0.0] * (found.n - count), "")
    return not are_apart(numbers(found), numbers(wilson))


def numbers(found: Interval) -> tuple[float, ...]:
    """A share and the ends of its interval."""
    return found.value, found.low, found.high


def are_apart(some: Iterable[float], others: Iterable[float]) -> bool:
    """Is any of some numbers another than its counterpart, beyond rounding?"""
    return not all(abs(a - b) <= ROUNDING for a, b in zip(some, others, strict=True))


def first_set(wrong: Bools) -> str:
    """Where the first of some bits (K, N) is set, empty where none is."""
    return f"image {int(wrong.any(axis=0).argmax())} of the cell" if wrong.any() else ""


def is_sane(value: float) -> bool:
    """0 or more, and finite; not NaN."""
    return 0 <= value < math.inf


def near(value: float) -> float:
    """How far a number in float32 may lie from this one."""
    return ROUNDING + 2 * ROUNDING * abs(value)


def is_whole(count: float) -> bool:
    """A count that was divided and multiplied again."""
    return abs(count - round(count)) <= 1e-6 * max(1.0, count)


def is_digest(text: str) -> bool:
    """Hexadecimal digits, as many as a digest has."""
    return 8 <= len(text) <= 64 and set(text) <= set("0123456789abcdef")

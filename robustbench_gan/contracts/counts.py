"""What an attack did, sample by sample, and the limits on it: queries an image, and time."""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Counts:
    """What an attack did, per sample of a cell: (N,) int64 each, shared by every view narrowed from one."""

    forward: Tensor
    backward: Tensor
    calls: Tensor
    gradients: Tensor
    zero_gradients: Tensor
    tiny_gradients: Tensor  # zero ones among them
    nan_gradients: Tensor  # infinite ones among them
    flat_losses: Tensor  # gradients of a loss of 0: a softmax that is 1, of whose logits the largest has none

    @classmethod
    def zeros(cls, n: int, device: torch.device | None = None) -> Counts:
        """Nothing done yet to n samples."""
        return cls(*(torch.zeros(n, dtype=torch.int64, device=device) for _ in cls.__dataclass_fields__))

    @classmethod
    def cat(cls, many: list[Counts]) -> Counts:
        """The counts of several groups of samples, in order."""
        return cls(*(torch.cat([getattr(c, name) for c in many]) for name in cls.__dataclass_fields__))

    def add(self, rows: Tensor, other: Counts) -> None:
        """Charge these samples, in place, for what was done to them elsewhere."""
        for name in self.__dataclass_fields__:
            getattr(self, name)[rows] += getattr(other, name)

    def plus(self, other: Counts) -> Counts:
        """The sum of two attacks on the same samples."""
        return Counts(*(getattr(self, n) + getattr(other, n) for n in self.__dataclass_fields__))


@dataclass
class Tally:
    """How often a view, with all that were narrowed from it, wrote into its counts, and the passes in all."""

    edits: int = 0
    total: int = 0


class QueryLimit(RuntimeError):
    """An attack asked for more queries an image than its threat model grants."""


class OutOfTime(RuntimeError):
    """An attack was at work for longer than its cell may take: it has no answer, neither good nor bad.

    The message says at what. `is_real` tells one that a deadline raised from one that a plugin made up.
    """

    @property
    def is_real(self) -> bool:
        """Was there a deadline, and has it passed?"""
        return self in _LATE


_LATE = weakref.WeakSet[OutOfTime]()


@dataclass
class Deadline:
    """When an attack has to be done, in seconds of the monotonic clock; `passed` where it was stopped there.

    Looked at before each pass; nothing else of a cell depends on time.
    """

    at: float
    passed: bool = False
    what: str = "crafting"

    def check(self) -> None:
        """Raises OutOfTime past the deadline."""
        if time.monotonic() > self.at:
            self.passed = True
            self.insist()

    def insist(self) -> None:
        """Raises OutOfTime where the deadline has passed, whatever became of the first one."""
        if self.passed:
            late = OutOfTime(self.what)
            _LATE.add(late)
            raise late

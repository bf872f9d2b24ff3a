"""Seconds of a pass through a system, told in a moment: long passes are cut short and what is left of them is counted.

Seconds are those that the thread was at work, so that whatever else the machine does meanwhile counts for little. For
forecasts alone: the limit on a cell's time stands on `cell.estimate`, which times whole micro-batches by the clock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from robustbench_gan.base.batching import micro_batch_size
from robustbench_gan.cell.context import Run
from robustbench_gan.cell.estimate import Clock, Timing, system_of
from robustbench_gan.nouns.outcome import Goal

MOMENT = 0.3  # seconds that a pass of a whole micro-batch is watched for
LONG = 10.0  # seconds that a pass of one image may take, which tells how many operations a pass has
SLOW = 0.5  # seconds an image: such a system iterates, and what its gradients take is derived from its answer
DERIVED = {"bpda": 1.0, "cut": 1.0, "truncated": 1.0, "full": 3.0}  # answers that such a gradient takes
PATIENCE = 12.0  # seconds for all timings together


class Unknown(Exception):
    """Why there is no estimate."""


class Passed(NamedTuple):
    """Seconds of a pass of a micro-batch, and of one of a single image."""

    whole: float
    one: float


class _CutShort(BaseException):
    """The moment is over. No Exception, which a defense may catch."""


class _Watch(TorchFunctionMode):
    """Counts operations, and ends the pass when its time is over.

    In an operation on a tensor alone: a call such as that which ends a `no_grad` has to come to its own end.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.operations, self.until = 0, time.thread_time() + seconds

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        if args and isinstance(args[0], Tensor) and time.thread_time() > self.until:
            raise _CutShort
        return func(*args, **(kwargs or {}))


@dataclass
class QuickClock(Clock):
    """Each kind of pass is timed once for all data sets of one form, and all of them no longer than PATIENCE."""

    known: dict[Any, Passed | Unknown] = field(default_factory=dict)
    spent: float = 0.0

    def timed(self, run: Run, kind: str) -> Timing:
        """What one micro-batch takes. Raises Unknown where there is no time left to time it."""
        seconds = self._passed(run, kind).whole
        return Timing(seconds, seconds)

    def timed_part(self, run: Run) -> float:
        """No more than an answer takes."""
        return self._passed(run, "forward").whole

    def _passed(self, run: Run, kind: str) -> Passed:
        data, cell = run.workshop.dataset(run.cell.dataset), run.cell
        through = (
            () if kind.startswith("bare") else (cell.defense, run.threat.unroll if kind == "truncated" else 0)
        )
        key = (data.shape, len(data.classes), cell.classifier, *through, kind)
        if key not in self.known:
            measure = self._answer if kind in ("forward", "bare answer") else self._gradient
            try:
                self.known[key] = measure(run, kind)
            except Unknown as late:
                self.known[key] = late
        if isinstance(found := self.known[key], Unknown):
            raise found
        return found

    def _answer(self, run: Run, kind: str) -> Passed:
        one, operations, _ = self._once(run, kind, 1, LONG)
        if one < MOMENT / 10:
            one, operations, _ = self._once(run, kind, 1, LONG)  # the first warms up
        whole, made, finished = self._once(run, kind, micro_batch_size(run.x.device), MOMENT)
        return Passed(whole if finished else whole * operations / made, one)

    def _gradient(self, run: Run, kind: str) -> Passed:
        answer = self._passed(run, "bare answer" if kind.startswith("bare") else "forward")
        if answer.one > SLOW:
            return Passed(*(DERIVED[kind] * seconds for seconds in answer))
        one, _, _ = self._once(run, kind, 1, LONG)
        if one < MOMENT / 10:
            one, _, _ = self._once(run, kind, 1, LONG)
        size = micro_batch_size(run.x.device)
        if answer.whole * one / answer.one < MOMENT:
            whole, _, finished = self._once(run, kind, size, LONG)
            if finished:
                return Passed(whole, one)
        return Passed(answer.whole * one / answer.one, one)

    def _once(self, run: Run, kind: str, rows: int, limit: float) -> tuple[float, int, bool]:
        """Seconds and operations of a pass of so many images, and whether it came to its end.

        Raises Unknown where one of a single image does not.
        """
        if self.spent > PATIENCE:
            raise Unknown(f"they were not timed, after {PATIENCE:g} s of timings")
        system, x, y = system_of(run, kind), run.x[:rows].clone(), run.y[:rows]
        seed, answers = torch.arange(rows, device=x.device), kind in ("forward", "bare answer", "cut")
        before, watch, finished = time.thread_time(), _Watch(limit), True
        try:
            with torch.set_grad_enabled(not answers), watch:
                out = system(x.requires_grad_(not answers), seed)
                value = Goal.untargeted(y).loss(out).sum()
                if value.requires_grad:  # a cell that finds no way back fails at its first pass
                    torch.autograd.grad(value, x, allow_unused=True)
        except _CutShort:
            finished = False
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        seconds = time.thread_time() - before
        self.spent += seconds
        if rows == 1 and not finished:
            raise Unknown(f"an answer takes more than {LONG:g} s an image")
        return seconds, watch.operations, finished

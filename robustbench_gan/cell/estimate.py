"""How long a cell will take, before it runs: no answer depends on it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from robustbench_gan.base.batching import micro_batch_size
from robustbench_gan.cell.context import Run, gradients_of
from robustbench_gan.contracts.systems import Bare, Defended, System
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.outcome import Goal

LONG = (
    5.0  # seconds: a first pass that takes so long is no warm-up but tells, give or take, what a pass takes
)
ENOUGH = 0.25  # seconds of timing, after the first pass
TIMINGS = 5  # at most, beside the first


class Timing(NamedTuple):
    """Seconds of one pass: the fastest seen and the median. A busy machine bends the median more."""

    fastest: float
    usual: float


class Estimate(NamedTuple):
    """Seconds of crafting and judging: what no luck can spare, and what the attack takes at most."""

    least: float
    most: float


class Clock:
    """Seconds of passes through the fitted system of a cell, each kind timed once."""

    def timed_part(self, run: Run) -> float:
        """Seconds of one micro-batch through a part: those of a defended answer, shared among those sent there."""

        def measure() -> float:
            x, rows = run.x[: micro_batch_size(run.x.device)], [0]

            def count(_: nn.Module, given: tuple[Tensor, ...], __: object) -> None:
                rows[0] += len(given[0])

            hooks = [part.register_forward_hook(count) for part in run.parts.values()]
            started = time.perf_counter()
            try:
                View.on(Defended(run.held), run.seeds("view")[: len(x)]).output(x)
            finally:
                for hook in hooks:
                    hook.remove()
            return (time.perf_counter() - started) * micro_batch_size(x.device) / max(rows[0], 1)

        return run.workshop.once(("timing", "part", run.threat.copies, *run.system_names()), measure)

    def timed(self, run: Run, kind: str) -> Timing:
        """What one micro-batch takes: an answer (`forward`), or a value and gradient of the kind named.

        `bare` and `bare answer` are those of the classifier alone, which stands for a substitute too.
        """

        def measure() -> Timing:
            rows = slice(0, micro_batch_size(run.x.device))
            x, goal, system = run.x[rows], Goal.untargeted(run.y[rows]), system_of(run, kind)

            def once() -> None:
                view = View.on(system, run.seeds("view")[rows])
                if kind in ("forward", "bare answer"):
                    view.output(x)
                else:
                    view.value_and_grad(goal.loss, x)

            return _seconds(once)

        return run.workshop.once(("timing", kind, run.threat.unroll, *run.system_names()), measure)


def estimate(run: Run, clock: Clock | None = None) -> Estimate:
    """A cell's seconds, from timing a micro-batch of each kind of pass, by another `clock` where one is given.

    An attack that seeks the smallest perturbation is done with a sample when it is, and one on an exact view when the
    sample is won: they take anything between their fewest passes and all of them. Any other takes all.
    """
    clock = clock or Clock()
    chunks = -(-len(run.x) // micro_batch_size(run.x.device))
    defended = run.threat.holds_defense or run.threat.copies
    known = run.threat.name == "seed-known"
    still = known or not (run.defense.randomised and defended)
    exact = still and defended and not run.threat.copies
    classes, features = len(run.workshop.dataset(run.cell.dataset).classes), run.x[0].numel()
    asked = run.parameters, run.cell.norm, classes, features, run.cell.eps
    passes, alone = run.info.cost(*asked)
    fewest = min(run.info.at_least(*asked), passes) if run.info.minimal or exact else passes
    judging, answer = clock.timed(run, "forward"), clock.timed(run, "forward" if defended else "bare answer")
    each = [answer]
    if run.info.needs == "gradient" and not run.info.trained:
        each = [clock.timed(run, kind) for kind in (gradients_of(run) if defended else ["bare"])]
    goals = classes - 1 if run.cell.goal == "all" else 1
    judged = chunks * run.cell.judge_seeds
    rounds = chunks * (run.cell.judge_seeds if known else 1) * (1 if still else run.threat.draws)
    once = each[0].fastest if exact else goals * sum(pass_.fastest for pass_ in each)
    choosing = len(each) * goals * answer.usual if len(each) * goals > 1 else 0.0
    on_parts = alone * goals * clock.timed_part(run) if alone and run.parts else 0.0
    every = passes * goals * sum(pass_.usual for pass_ in each)
    return Estimate(
        judging.fastest * judged + rounds * fewest * once,
        judging.usual * judged + rounds * (every + choosing + on_parts),
    )


def system_of(run: Run, kind: str) -> System:
    """What a pass of a kind goes through: the defended system with a gradient, or the classifier alone."""
    if kind.startswith("bare"):
        return Bare(run.defense.base)
    gradient: Any = kind if kind in ("bpda", "truncated", "cut") else "full"
    return Defended(run.defense, gradient, run.threat.unroll)


def _seconds(once: Callable[[], None]) -> Timing:
    """What a pass takes: several timed, after one to warm up, unless it is so long that one tells."""
    times: list[float] = []
    while len(times) <= TIMINGS and (len(times) < 2 or sum(times[1:]) < ENOUGH):
        started = time.perf_counter()
        once()
        times.append(time.perf_counter() - started)
        if times[0] > LONG:
            break
    return Timing(min(times), statistics.median(times[1:] or times))

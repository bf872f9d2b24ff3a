"""How long a cell will take, before it runs: no answer depends on it."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor, nn

from robustbench_gan.batching import micro_batch_size
from robustbench_gan.cell_run import Run, goals_of, gradients_of
from robustbench_gan.outcome import Goal
from robustbench_gan.threat import Defended, View


def estimate_seconds(run: Run) -> float:
    """An upper estimate of a cell's crafting and judging, from timing one micro-batch of each kind of pass."""
    size = micro_batch_size(run.x.device)
    chunks = -(-len(run.x) // size)
    judging = _timed(run, "forward") * chunks * run.cell.judge_seeds
    sets = run.cell.judge_seeds if run.threat.name == "seed-known" else 1
    draws = run.threat.draws if run.defense.randomised and sets == 1 else 1
    classes, features = len(run.workshop.dataset(run.cell.dataset).classes), run.x[0].numel()
    passes, alone = (
        count * len(goals_of(run))
        for count in run.info.cost(run.parameters, run.cell.norm, classes, features)
    )
    if not (run.threat.holds_defense or run.threat.copies):
        return judging  # passes through a classifier alone are cheap beside one defended answer
    gradients = gradients_of(run)
    each = sum(_timed(run, g if run.info.needs == "gradient" else "forward") for g in gradients)
    choosing = _timed(run, "forward") * len(gradients) * draws if len(gradients) > 1 else 0.0
    on_parts = alone * _timed_part(run) if alone and run.parts else 0.0
    return judging + chunks * sets * (passes * draws * each + choosing + on_parts)


def _timed_part(run: Run) -> float:
    """Seconds of one micro-batch through a part: those of a defended answer, shared among the batches it sent there."""

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

    return run.workshop.once(("timing", "part", *run.system_names()), measure)


def _timed(run: Run, kind: str) -> float:
    """Seconds of one micro-batch: an answer (`forward`) or a value and gradient of the kind named."""

    def measure() -> float:
        x, y = (
            run.x[: micro_batch_size(run.x.device)],
            run.y[: micro_batch_size(run.x.device)],
        )
        gradient: Any = "full" if kind == "forward" else kind
        view = View.on(Defended(run.defense, gradient, run.threat.unroll), run.seeds("view")[: len(x)])
        started = time.perf_counter()
        if kind == "forward":
            view.output(x)
        else:
            view.value_and_grad(Goal.untargeted(y).loss, x)
        return time.perf_counter() - started

    return run.workshop.once(("timing", kind, *run.system_names()), measure)

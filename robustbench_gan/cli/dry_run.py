"""What a dry run of `rbg evaluate` and `rbg sweep` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from robustbench_gan.base.terminal import Plain
from robustbench_gan.cell.question import Planned
from robustbench_gan.engine.matrix import Matrix
from robustbench_gan.engine.plan import Step, labels_of, steps_of


def show_plan(asked: Matrix, planned: list[Planned], as_json: bool) -> None:
    """Print the shared steps and the cells of a matrix without running any."""
    steps, called = steps_of(planned), labels_of(planned)
    if as_json:
        cells = [{**json.loads(p.cell.model_dump_json()), "not_applicable": p.reason} for p in planned]
        shared = [{"kind": s.kind, "label": s.label, "key": s.key} for s in steps if s.kind != "cell"]
        click.echo(
            json.dumps({"matrix": asked.model_dump(mode="json"), "steps": shared, "cells": cells}, indent=1)
        )
        return
    console = Plain(soft_wrap=True, highlight=False)
    console.print(f"{asked.name}: trained once and shared by cells", style="bold")
    for line in _trained_lines(steps):
        console.print(f"  {line}", markup=False)
    console.print("cells", style="bold")
    reasons: dict[str, list[str]] = {}
    for item in planned:
        c = item.cell
        budget = f"{c.goal}, {c.norm} {c.eps:g}, n {c.samples}, {c.judge_seeds} judge seeds"
        kinds = ("dataset", "classifier", "defense", "threat")
        where = " / ".join([*(called(kind, getattr(c, kind)) for kind in kinds), c.attack])
        if item.reason:
            reasons.setdefault(item.reason, []).append(where)
        else:
            console.print(f"  {where}  ({budget})", markup=False)
    for reason, places in reasons.items():
        console.print(f"not applicable: {reason}", style="bold", markup=False)
        for where in places:
            console.print(f"  {where}", markup=False)
    runs = sum(not item.reason for item in planned)
    console.print(f"{runs} cells to run, {len(planned) - runs} not applicable.")
    if asked.max_cell_minutes:
        limit = f"{asked.max_cell_minutes:g} minutes"
        console.print(f"Cells sure to take more than {limit} will not be run; others are stopped there.")


def _trained_lines(steps: Sequence[Step]) -> list[str]:
    """Each trained thing on a line; settings of one defense share theirs, as they do whatever they do not change."""
    settings: dict[tuple[str, str], list[Step]] = {}
    for step in steps:
        if step.kind != "cell":
            one = step.label.partition(" (")[0] if step.kind in ("defense", "copy") else step.label
            settings.setdefault((step.kind, one), []).append(step)
    return [
        f"{kind:11}{name}, {len(own)} settings: trained anew only where one changes the training"
        if len(own) > 1
        else f"{kind:11}{own[0].label}"
        for (kind, name), own in settings.items()
    ]

"""What a dry run of `rbg evaluate` or `rbg sweep` prints: a summary that fits a screen, each cell where asked for."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.text import Text

from robustbench_gan.base.terminal import Plain
from robustbench_gan.cell.question import Planned
from robustbench_gan.engine.forecast import Forecast, forecast
from robustbench_gan.engine.matrix import Matrix
from robustbench_gan.engine.plan import Step, labels_of, steps_of
from robustbench_gan.leaderboard.labels import Labels, radius
from robustbench_gan.results.places import short

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Workshop

ROWS = 16  # of defenses, before settings of one share a line
DEAREST = 10
FEW = 4  # to be named
NAMED = 28  # columns that a defense's name gets at least
RESTS_ON = "by passes timed here times those that attacks declare, and by recorded times"


def show_plan(
    asked: Matrix, planned: list[Planned], workshop: Workshop, out: Path, *, as_json: bool, verbose: bool
) -> None:
    """Print what a matrix would train and run, running and training nothing."""
    if as_json:
        click.echo(json.dumps(_as_json(asked, planned), indent=1))
        return
    console = Plain(highlight=False)
    if verbose:
        for line in full_list(asked, planned):
            console.print(line, markup=False, soft_wrap=True)
    for line in summary(asked, planned, forecast(planned, workshop, out), console.width):
        console.print(Text(line), soft_wrap=True)


def _as_json(asked: Matrix, planned: list[Planned]) -> dict[str, object]:
    cells = [{**json.loads(p.cell.model_dump_json()), "not_applicable": p.reason} for p in planned]
    shared = [{"kind": s.kind, "label": s.label, "key": s.key} for s in steps_of(planned) if s.kind != "cell"]
    return {"matrix": asked.model_dump(mode="json"), "steps": shared, "cells": cells}


def summary(asked: Matrix, planned: Sequence[Planned], found: Forecast, width: int) -> Iterator[str]:
    """Counts, what is trained, what is not applicable and what it will take, no line wider than `width`."""
    called, limit = labels_of(planned), 60 * asked.max_cell_minutes if asked.max_cell_minutes else None
    todo = [p for p in planned if not p.reason and p.cell.fingerprint not in found.done]
    refused = Counter(item.reason for item in planned if item.reason)
    lines = [
        f"{asked.name}: {len(planned)} cells: {len(todo)} to run, {len(found.done)} done already, "
        f"{refused.total()} not applicable",
        *_counted(todo, called, width),
        *_trained(found),
    ]
    if refused:
        lines += ["not applicable", *(f"{count:6}  {reason}" for reason, count in refused.most_common())]
    lines += [*_dearest(todo, found, called, limit), *_in_all(found, asked.max_cell_minutes, limit)]
    for line in lines:
        yield clipped(line, width)


def clipped(line: str, width: int) -> str:
    """A line of at most so many columns."""
    return line.rstrip() if len(line.rstrip()) <= width else line[: width - 1] + "…"


def _counted(todo: Sequence[Planned], called: Labels, width: int) -> Iterator[str]:
    """A table of the cells to run, defenses by threat models."""
    if not todo:
        return
    names = {item.cell.defense: called("defense", item.cell.defense) for item in todo}
    if len(names) > ROWS:
        settings = Counter(map(short, names))
        names = {text: f"{short(text)}, {settings[short(text)]} settings" for text in names}
    threats = {item.cell.threat: called("threat", item.cell.threat) for item in todo}
    cells = Counter((names[item.cell.defense], threats[item.cell.threat]) for item in todo)
    columns, rows = list(dict.fromkeys(threats.values())), list(dict.fromkeys(names.values()))
    heads = [re.findall(r"[^-:]+[-:]?", name) for name in columns]
    if sum(max(map(len, head)) + 2 for head in heads) > width - NAMED:  # too wide: numbered, and named below
        heads = [[f"({number})"] for number in range(1, len(columns) + 1)]
    widths = [max(5, *map(len, head)) + 2 for head in heads]
    left = max(len("cells to run"), min(max(map(len, rows)), width - sum(widths)))
    height = max(map(len, heads))
    for at in range(height):
        parts = [(head[at - height + len(head)] if at >= height - len(head) else "") for head in heads]
        first = "cells to run" if at == height - 1 else ""
        yield first.ljust(left) + "".join(part.rjust(w) for part, w in zip(parts, widths, strict=True))
    for row in rows:
        counts = [str(cells[row, column] or "-") for column in columns]
        yield clipped(row, left).ljust(left) + "".join(
            c.rjust(w) for c, w in zip(counts, widths, strict=True)
        )
    if heads[0] == ["(1)"]:
        yield from (f"  ({number}) {name}" for number, name in enumerate(columns, 1))


def _trained(found: Forecast) -> Iterator[str]:
    """A line a kind of shared step; the names of what is trained where they are few."""
    if found.steps:
        yield "trained once and shared"
    for kind in dict.fromkeys(one.step.kind for one in found.steps):
        own = [one for one in found.steps if one.step.kind == kind]
        missing = [one for one in own if not one.stored]
        said = [f"{len(own) - len(missing)} ready"] if len(own) > len(missing) else []
        if missing:
            known = [one.seconds for one in missing if one.seconds is not None]
            taken = [f"{minutes(sum(known))} min"] if known else []
            taken += [f"{len(missing) - len(known)} not estimated"] if len(known) < len(missing) else []
            said.append(f"{len(missing)} to train ({', '.join(taken)})")
        yield f"  {kind:12}{', '.join(said)}"
        if len(missing) <= FEW:
            yield from (f"    {one.step.label}" for one in missing)


def _dearest(todo: Sequence[Planned], found: Forecast, called: Labels, limit: float | None) -> Iterator[str]:
    """The cells that may take longest, with their minutes."""
    by = found.cells
    known = [(found.within(by[p.cell.fingerprint], limit), p) for p in todo if p.cell.fingerprint in by]
    known.sort(key=lambda pair: pair[0].most, reverse=True)
    if known:
        yield f"dearest cells, minutes at least and at most{', if not stopped' if limit is None else ''}"
    several = len({(item.cell.norm, item.cell.eps) for item in todo}) > 1
    for one, item in known[:DEAREST]:
        kinds = [
            called(kind, getattr(item.cell, kind)) for kind in called.telling("defense", "threat", "attack")
        ]
        budget = f", {radius(item.cell.norm, item.cell.eps)}" if several else ""
        yield f"{minutes(one.least):>8} {minutes(one.most):>9}  {' / '.join(kinds)}{budget}"


def _in_all(found: Forecast, cap: float | None, limit: float | None) -> Iterator[str]:
    """What all of it takes, what of it is not known, and what the figures stand on."""
    if limit is not None:
        over = sum(one.least > limit for one in found.cells.values())
        yield f"{over} cells sure to take more than {cap:g} minutes are not run; others are stopped there"
    for why, count in Counter(found.unknown.values()).most_common():
        yield f"{count} cells not estimated: {why}"
    total, more = found.total(limit), sum(not one.stored and one.seconds is None for one in found.steps)
    besides = f", {more} trainings not estimated" if more else ""
    yield f"estimated in all: {minutes(total.least)} to {minutes(total.most)} minutes{besides}"
    yield RESTS_ON


def minutes(seconds: float) -> str:
    """Seconds as minutes, to a tenth below ten."""
    value = seconds / 60
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.05 or value == 0 else "<0.1"


def full_list(asked: Matrix, planned: Sequence[Planned]) -> Iterator[str]:
    """Every shared step and every cell, those that are not applicable by their reason."""
    steps, called = steps_of(planned), labels_of(planned)
    yield f"{asked.name}: trained once and shared by cells"
    for line in _trained_lines(steps):
        yield f"  {line}"
    yield "cells"
    reasons: dict[str, list[str]] = {}
    for item in planned:
        c = item.cell
        budget = f"{c.goal}, {c.norm} {c.eps:g}, n {c.samples}, {c.judge_seeds} judge seeds"
        kinds = ("dataset", "classifier", "defense", "threat")
        where = " / ".join([*(called(kind, getattr(c, kind)) for kind in kinds), str(c.attack)])
        if item.reason:
            reasons.setdefault(item.reason, []).append(where)
        else:
            yield f"  {where}  ({budget})"
    for reason, places in reasons.items():
        yield f"not applicable: {reason}"
        for where in places:
            yield f"  {where}"


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

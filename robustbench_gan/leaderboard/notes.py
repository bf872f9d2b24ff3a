"""What stands under a table: gaps in headlines, red flags, and the reasons for cells without a number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from robustbench_gan.leaderboard.flat import clean_interval
from robustbench_gan.leaderboard.labels import Labels, escape

if TYPE_CHECKING:
    from robustbench_gan.leaderboard.headline import Column, Standing, Table

LONGEST = 300  # characters of a reason or a message
ColumnLabel = Callable[["Column"], str]


def notes(table: Table, labels: Labels, column: ColumnLabel, times: bool = True) -> list[str]:
    """The notes of one table as lines of Markdown list items, most serious first.

    `column` gives a column's escaped label. Without `times`, whatever was measured with a clock is left out.
    """
    found = [*_gaps(table, labels, column), *_doubts(table, labels, column), *_unranked(table, labels)]
    found += _flags(table, labels, column)
    found += _reasons(table, labels, column, times)
    return [f"- {note}" for note in (*found, *_clean(table, labels))]


def marks(standing: Standing) -> str:
    """What follows a headline: † where it leaves out attacks, ‡ where it rests on doubtful cells."""
    return (" †" if standing.incomplete else "") + (" ‡" if standing.doubts else "")


def _doubts(table: Table, labels: Labels, column: ColumnLabel) -> list[str]:
    return [
        f"‡ {escape(labels('defense', s.defense))}: the worst case rests on cells that others contradict, "
        "and no other attack settles it: "
        + "; ".join(f"{column(c)} ({', '.join(map(escape, ids))})" for c, ids in s.doubts)
        + "."
        for s in table.standings
        if s.doubts
    ]


def _gaps(table: Table, labels: Labels, column: ColumnLabel) -> list[str]:
    return [
        f"† {escape(labels('defense', s.defense))}: incomplete, the worst case leaves out "
        + "; ".join(f"{column(c)} ({escape(status)})" for c, status in s.missing)
        + "."
        for s in table.standings
        if s.incomplete
    ]


def _unranked(table: Table, labels: Labels) -> list[str]:
    names = [escape(labels("defense", s.defense)) for s in table.standings if s.controls_only]
    return [f"Not ranked, since only controls stand behind the number: {', '.join(names)}."] if names else []


def _flags(table: Table, labels: Labels, column: ColumnLabel) -> list[str]:
    places: dict[str, list[str]] = defaultdict(list)
    for standing, c, result in table.results:
        raised = [(flag, "") for flag in result.flags]
        raised += [(flag, ", across cells") for flag in table.findings.of(result)]
        for flag, where in raised:
            text = f"**{escape(flag.id)}** ({flag.severity}{where}): {escape(flag.message, LONGEST)}"
            places[text].append(_place(standing, c, labels, column))
    return [f"{text} (in {'; '.join(where)})" for text, where in sorted(places.items())]


def _reasons(table: Table, labels: Labels, column: ColumnLabel, times: bool) -> list[str]:
    """Why cells have no number. The reason of a cell not run tells its estimate, which a clock made."""
    places: dict[str, list[str]] = defaultdict(list)
    for standing, c, result in table.results:
        if result.status == "ok" or (result.status == "suspect" and not result.reason):
            continue
        told = times or result.status != "not run"
        why = f": {escape(result.reason, LONGEST)}" if told and result.reason else ""
        places[result.status + why].append(_place(standing, c, labels, column))
    return [f"{text} (in {'; '.join(where)})" for text, where in sorted(places.items())]


def _clean(table: Table, labels: Labels) -> list[str]:
    """The clean controls of each defense, and a warning where its cells disagree on clean accuracy."""
    lines = []
    for standing in table.standings:
        name = escape(labels("defense", standing.defense))
        ok = [r for r in standing.cells.values() if r.counts]
        controls = {f"{escape(k)} {v:.3f}" for r in ok for k, v in r.controls.items()}
        if controls:
            lines.append(f"Clean accuracies of {name}: {', '.join(sorted(controls))}.")
        seen = sorted({i.value for i in map(clean_interval, ok) if i})
        if len(seen) > 1:
            lines.append(f"The cells of {name} disagree on clean accuracy: {seen[0]:.3f} to {seen[-1]:.3f}.")
    return lines


def _place(standing: Standing, c: Column, labels: Labels, column: ColumnLabel) -> str:
    return f"{escape(labels('defense', standing.defense))} × {column(c)}"

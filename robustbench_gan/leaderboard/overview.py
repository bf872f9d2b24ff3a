"""The overview: the worst case over attacks of each defense, under each threat model side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robustbench_gan.leaderboard.labels import Labels, escape, radius
from robustbench_gan.leaderboard.notes import marks
from robustbench_gan.leaderboard.pipes import pipe_table
from robustbench_gan.nouns.spec import Chain
from robustbench_gan.nouns.statistics import Interval

if TYPE_CHECKING:
    from robustbench_gan.leaderboard.headline import Standing, Table

THREAT_ORDER = ("black-box", "query", "gray-box", "gray-box:copy", "white-box", "seed-known")


@dataclass(frozen=True)
class Grid:
    """Defenses by threat models at one budget: `rows` has of each defense its standing in each of `tables`, if any."""

    heading: tuple[str, ...]
    tables: tuple[Table, ...]
    rows: Mapping[Chain, Sequence[Standing | None]]


def grids(tables: Iterable[Table], labels: Labels) -> list[Grid]:
    """Tables side by side that differ in the threat model alone: data set, classifier, goal and budget are the same."""
    groups: dict[tuple[str, ...], list[Table]] = defaultdict(list)
    for table in tables:
        s = table.setting
        names = labels("dataset", s.dataset), labels("classifier", s.classifier)
        key = (*names, s.goal, radius(s.norm, s.eps))
        groups[key].append(table)
    return [_grid(heading, members) for heading, members in groups.items()]


def _grid(heading: tuple[str, ...], tables: Sequence[Table]) -> Grid:
    ordered = tuple(sorted(tables, key=lambda t: (_place(t), t.setting)))
    rows: dict[Chain, list[Standing | None]] = {}
    for at, table in enumerate(ordered):
        for standing in table.standings:
            rows.setdefault(standing.defense, [None] * len(ordered))[at] = standing
    return Grid(heading, ordered, rows)


def overview(tables: Iterable[Table], labels: Labels) -> list[str]:
    """Markdown blocks: for each data set, classifier, goal and budget a table of defenses by threat models.

    A threat model whose cells are all not applicable to a defense shows n/a; † marks a worst case from which
    some attack is missing, ‡ one that rests on a cell with an invalid flag across cells.
    """
    blocks: list[str] = []
    for grid in grids(tables, labels):
        header = ["defense", "clean accuracy"]
        header += [f"{t.setting.threat} (n = {t.setting.samples})" for t in grid.tables]
        lines = [
            [escape(labels("defense", d)), str(clean(row) or "–"), *map(_worst, row)]
            for d, row in grid.rows.items()
        ]
        blocks += [f"**{escape(' · '.join(grid.heading))}**", pipe_table(header, sorted(lines))]
    return blocks


def _place(table: Table) -> int:
    threat = table.setting.threat
    return THREAT_ORDER.index(threat) if threat in THREAT_ORDER else len(THREAT_ORDER)


def clean(row: Sequence[Standing | None]) -> Interval | None:
    """The clean accuracy of a defense, which is the same under every threat model."""
    return next((s.clean for s in row if s is not None and s.clean is not None), None)


def _worst(standing: Standing | None) -> str:
    if standing is None:
        return "–"
    if standing.headline is None:
        applicable = any(r.status != "not applicable" for r in standing.cells.values())
        return "– †" if applicable else "n/a"
    if standing.controls_only:
        return "controls only"
    return f"{standing.headline}{marks(standing)}"

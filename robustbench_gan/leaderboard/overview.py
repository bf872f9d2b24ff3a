"""The overview: the worst case over attacks of each defense, under each threat model side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from robustbench_gan.leaderboard.headline import Standing, Table
from robustbench_gan.leaderboard.labels import Labels, escape, radius
from robustbench_gan.leaderboard.notes import marks
from robustbench_gan.leaderboard.pipes import pipe_table

THREAT_ORDER = ("black-box", "query", "gray-box", "gray-box:copy", "white-box", "seed-known")


def overview(tables: Iterable[Table], labels: Labels) -> list[str]:
    """Markdown blocks: for each data set, classifier, goal and budget a table of defenses by threat models.

    A threat model whose cells are all not applicable to a defense shows n/a; † marks a worst case from which
    some attack is missing, ‡ one that rests on a cell with an invalid flag across cells.
    """
    groups: dict[tuple[str, ...], list[Table]] = defaultdict(list)
    for table in tables:
        s = table.setting
        names = labels("dataset", s.dataset), labels("classifier", s.classifier)
        key = (*names, s.goal, radius(s.norm, s.eps))
        groups[key].append(table)
    blocks: list[str] = []
    for heading, members in groups.items():
        blocks += [f"**{escape(' · '.join(heading))}**", _grid(members, labels)]
    return blocks


def _grid(tables: Sequence[Table], labels: Labels) -> str:
    ordered = sorted(tables, key=lambda t: (_place(t), t.setting))
    rows: dict[str, list[Standing | None]] = {}
    for at, table in enumerate(ordered):
        for standing in table.standings:
            rows.setdefault(standing.defense, [None] * len(ordered))[at] = standing
    header = [
        "defense",
        "clean accuracy",
        *(f"{t.setting.threat} (n = {t.setting.samples})" for t in ordered),
    ]
    lines = [[escape(labels("defense", d)), _clean(row), *map(_worst, row)] for d, row in rows.items()]
    return pipe_table(header, sorted(lines))


def _place(table: Table) -> int:
    threat = table.setting.threat
    return THREAT_ORDER.index(threat) if threat in THREAT_ORDER else len(THREAT_ORDER)


def _clean(row: Sequence[Standing | None]) -> str:
    return next((str(s.clean) for s in row if s is not None and s.clean is not None), "–")


def _worst(standing: Standing | None) -> str:
    if standing is None:
        return "–"
    if standing.headline is None:
        applicable = any(r.status != "not applicable" for r in standing.cells.values())
        return "– †" if applicable else "n/a"
    if standing.controls_only:
        return "controls only"
    return f"{standing.headline}{marks(standing)}"

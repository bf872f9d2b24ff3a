"""The headline of each defense, its worst case over attacks, and who may be ranked with whom."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from robustbench_gan.base.as_text import AsText
from robustbench_gan.flags.across import Doubt, Findings, across, doubts
from robustbench_gan.flags.thresholds import MARGIN
from robustbench_gan.leaderboard.flat import at_budget, clean_interval, measured
from robustbench_gan.leaderboard.versions import one_a_question
from robustbench_gan.nouns.record import Result
from robustbench_gan.nouns.spec import Chain, Classifier, Spec
from robustbench_gan.nouns.statistics import Interval, interval, worst_case


class Setting(NamedTuple):
    """What all cells of a table share; defenses are ranked together only inside one."""

    dataset: Spec
    classifier: Classifier
    threat: str  # the name alone; its parameters are in the columns
    goal: str
    norm: str
    first: int
    samples: int
    seed: int
    judge_seeds: int
    eps: float

    @property
    def without_samples(self) -> tuple[AsText | str | float, ...]:
        """The setting but for the images and seeds it was judged on."""
        return (self.dataset, self.classifier, self.threat, self.goal, self.norm, self.eps)


class Column(NamedTuple):
    """One attack under one threat model; `minimal` where its cells have an infinite eps."""

    attack: Spec
    threat: Spec
    minimal: bool


@dataclass(frozen=True)
class Standing:
    """One defense in one setting. `headline` is its worst case over attacks, None where nothing counts.

    `missing` are the attacks whose result does not count, with the status; they make the headline incomplete.
    `rank` is None without a headline, or where nothing but controls stands behind it. `doubts` are the cells that
    the headline rests on though an invalid flag across cells stands against them, with the ids: no attack that is
    beyond doubt goes below what contradicts them.
    """

    defense: Chain
    cells: Mapping[Column, Result]
    clean: Interval | None
    headline: Interval | None
    missing: tuple[tuple[Column, str], ...]
    controls_only: bool
    rank: int | None = None
    doubts: tuple[tuple[Column, tuple[str, ...]], ...] = ()

    @property
    def incomplete(self) -> bool:
        """Does some attack lack a result that counts? Not applicable is no lack."""
        return bool(self.missing)


@dataclass(frozen=True)
class Table:
    """A setting with its attacks and its defenses, best first."""

    setting: Setting
    columns: tuple[Column, ...]
    controls: frozenset[Column]
    standings: tuple[Standing, ...]
    findings: Findings

    @property
    def results(self) -> list[tuple[Standing, Column, Result]]:
        """Every cell of the table, row by row."""
        return [(s, c, s.cells[c]) for s in self.standings for c in self.columns if c in s.cells]


def tables(
    results: Iterable[Result], at: Sequence[float] = (), findings: Findings | None = None
) -> list[Table]:
    """Group results into tables and rank the defenses in each, the same for any order of the results.

    A minimal-norm cell enters the table of every finite eps of its group, of `at`, and of those it was asked for;
    it stands at an infinite eps only where there is none. `findings` are the flags across all cells of the run,
    found here where they are not given. Raises UsageError when two results answer the same question.
    """
    groups: dict[Setting, list[Result]] = defaultdict(list)
    single = one_a_question((f"result {r.fingerprint[:12]}", r) for r in results)
    for result in single:
        groups[_group(result)].append(result)
    findings = across(single) if findings is None else findings
    made = []
    for setting, members in groups.items():
        for eps in _radii(members, at):
            inside = [r for r in members if r.cell.eps in (eps, math.inf)]
            made.append(_table(setting._replace(eps=eps), inside, findings))
    return sorted(made, key=lambda table: (table.setting.without_samples, table.setting))


def _group(result: Result) -> Setting:
    c = result.cell
    judged = (c.first, c.samples, c.seed, c.judge_seeds)
    return Setting(c.dataset, c.classifier, c.threat_name, c.goal, c.norm, *judged, eps=math.inf)


def _radii(members: list[Result], at: Sequence[float]) -> list[float]:
    radii = {r.cell.eps for r in members if math.isfinite(r.cell.eps)}
    radii |= {eps for r in members for eps in r.budgets}
    if any(math.isinf(r.cell.eps) for r in members):
        radii |= {eps for eps in at if math.isfinite(eps)}
    return sorted(radii) or [math.inf]


def _table(setting: Setting, members: list[Result], findings: Findings) -> Table:
    cells: dict[Chain, dict[Column, Result]] = defaultdict(dict)
    for r in members:
        cells[r.cell.defense][Column(r.cell.attack, r.cell.threat, math.isinf(r.cell.eps))] = r
    found = {column: r.control for row in cells.values() for column, r in row.items()}
    columns = tuple(sorted(found, key=lambda column: (found[column], column)))
    doubted = doubts(findings)
    standings = [_standing(defense, row, columns, setting.eps, doubted) for defense, row in cells.items()]
    controls = frozenset(column for column in columns if found[column])
    return Table(setting, columns, controls, tuple(_ranked(standings)), findings)


def _standing(
    defense: Chain,
    cells: dict[Column, Result],
    columns: Sequence[Column],
    eps: float,
    doubted: Mapping[str, list[Doubt]],
) -> Standing:
    # Built in the order of the columns, so that neither ties nor the bootstrap depend on the order of files.
    row = {column: cells[column] for column in columns if column in cells}
    ok = [r for r in row.values() if r.counts]
    status = {c: row[c].status if c in row else "no result" for c in columns if not _positive_control(c)}
    missing = tuple((c, text) for c, text in status.items() if text not in ("ok", "not applicable"))
    clean = [clean_interval(r) for r in sorted(row.values(), key=lambda r: not r.counts) if measured(r)]
    return Standing(
        defense=defense,
        cells=row,
        clean=clean[0] if clean else None,
        headline=_headline(ok, eps),
        missing=missing,
        controls_only=bool(ok) and all(r.control for r in ok),
        doubts=_doubts(row, ok, eps, doubted),
    )


def _doubts(
    row: dict[Column, Result], ok: list[Result], eps: float, doubted: Mapping[str, list[Doubt]]
) -> tuple[tuple[Column, tuple[str, ...]], ...]:
    """The flags against cells that the attacks beyond doubt do not make up for: by going below the contradiction."""
    sound = [at_budget(r, eps) for r in ok if r.fingerprint not in doubted]
    reached = float(worst_case(np.stack(sound)).mean()) if sound else math.inf
    found = []
    for column, r in row.items():
        open_ = [d.id for d in doubted.get(r.fingerprint, ()) if reached > d.against - MARGIN]
        if r.counts and open_:
            found.append((column, tuple(open_)))
    return tuple(found)


def _headline(ok: list[Result], eps: float) -> Interval | None:
    """Over samples, the mean of the worst attack; the interval is seeded by the questions that went into it."""
    if not ok:
        return None
    worst = worst_case(np.stack([at_budget(r, eps) for r in ok]))
    return interval(worst, ",".join([*sorted(r.cell.question for r in ok), repr(eps)]))


def _positive_control(column: Column) -> bool:
    """An attack that is denied its gradient on purpose is suspect by design, and so no gap in a headline."""
    return bool(column.threat.get("gradient") == "cut")


def _ranked(standings: list[Standing]) -> list[Standing]:
    """Best first: complete before incomplete before unranked; equal headlines share a rank."""
    ordered = sorted(standings, key=lambda s: (not _may_rank(s), s.incomplete, -_value(s), s.defense))
    ranked: list[Standing] = []
    for place, standing in enumerate(ordered, start=1):
        if not _may_rank(standing):
            ranked.append(standing)
            continue
        last = ranked[-1] if ranked else None
        tied = last and (last.incomplete, _value(last)) == (standing.incomplete, _value(standing))
        ranked.append(replace(standing, rank=last.rank if last and tied else place))
    return ranked


def _may_rank(standing: Standing) -> bool:
    return standing.headline is not None and not standing.controls_only


def _value(standing: Standing) -> float:
    return standing.headline.value if standing.headline else -1.0

"""The Markdown leaderboard: what the numbers mean, a ranked table a setting, its costs and its notes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustbench_gan.base.as_text import AsText
from robustbench_gan.flags.across import across
from robustbench_gan.leaderboard import randomness
from robustbench_gan.leaderboard.attackers import attackers
from robustbench_gan.leaderboard.contradictions import contradictions
from robustbench_gan.leaderboard.detected import FIGURES, together
from robustbench_gan.leaderboard.flat import cost, measured, median_size, robust_interval
from robustbench_gan.leaderboard.headline import Column, Setting, Standing, Table, tables
from robustbench_gan.leaderboard.labels import Labels, duration, escape, number, radius
from robustbench_gan.leaderboard.notes import marks, notes
from robustbench_gan.leaderboard.overview import overview
from robustbench_gan.leaderboard.pipes import pipe_table
from robustbench_gan.leaderboard.prose import DETECTION, MEANING, grants, made_with, specifications
from robustbench_gan.nouns.record import Result

TITLE = "Leaderboard"
KNOWN_BY = "Each accuracy is a share of the test images"  # stands at the beginning of every page


def markdown(
    results: Iterable[Result], *, title: str = TITLE, times: bool = True, at: Sequence[float] = ()
) -> str:
    """The leaderboard as one Markdown page, the same for any order of the results.

    `times=False` leaves out all that was measured with a clock, and the hardware, so that two runs compare
    equal. `at` adds tables at further radii for minimal-norm attacks. Raises UsageError when two results
    answer the same question.
    """
    results = list(results)
    findings = across(results)
    made = tables(results, at, findings)
    page = Page(Labels.among(results), times, Counter(t.setting.without_samples for t in made))
    detectors = DETECTION if any(r.detection for r in results) else ""
    blocks = [f"# {escape(title)}", MEANING, detectors, grants(results), made_with(results, times)]
    if len({table.setting.threat for table in made}) > 1:
        blocks += ["## Worst case over attacks, by threat model", *overview(made, page.labels)]
    blocks += randomness.section(results, page.labels)
    for table in made:
        blocks += page.section(table)
    blocks += contradictions(results, findings, page.labels)
    return "\n\n".join(block for block in [*blocks, specifications(results)] if block) + "\n"


@dataclass(frozen=True)
class Page:
    """What every section of one page shares: labels, whether times are shown, tables per setting."""

    labels: Labels
    times: bool
    siblings: Counter[tuple[AsText | str | float, ...]]

    def section(self, table: Table) -> list[str]:
        """The blocks of one table: heading, setting, ranking, costs, notes."""
        blocks = [f"## {self.heading(table.setting)}", self.setting(table), self.ranking(table)]
        if costs := self.costs(table):
            blocks += ["**Cost**", costs]
        if detection := self.detection(table):
            blocks += ["**Detection**", detection]
        blocks += attackers(table, self.labels, lambda c: self.column(table, c))
        if found := notes(table, self.labels, lambda c: self.column(table, c), self.times):
            blocks += ["**Notes**", "\n".join(found)]
        return blocks

    def heading(self, setting: Setting) -> str:
        """Dataset, classifier, threat model, goal, budget and n on one line."""
        names = (self.labels("dataset", setting.dataset), self.labels("classifier", setting.classifier))
        parts = (*names, setting.threat, setting.goal, radius(setting.norm, setting.eps))
        return " · ".join([*map(escape, parts), f"n = {setting.samples}"])

    def setting(self, table: Table) -> str:
        """Which images and seeds, the attacker in full, and with whom these ranks do not compare."""
        s = table.setting
        seeds = "1 judge seed" if s.judge_seeds == 1 else f"{s.judge_seeds} judge seeds"
        threats = "; ".join(escape(str(threat)) for threat in sorted({c.threat for c in table.columns}))
        images = f"Test images {s.first} to {s.first + s.samples - 1} (n = {s.samples})"
        text = f"{images}, seed {s.seed}, {seeds}. Threat model: {threats}."
        if any(c.minimal for c in table.columns) and math.isfinite(s.eps):
            text += (
                " A (minimal) attack seeks the smallest perturbation and wins where that is in the budget."
            )
        if self.siblings[s.without_samples] > 1:
            text += " Another table here judges other images or seeds: their ranks do not compare."
        return text

    def column(self, table: Table, column: Column) -> str:
        """An attack's escaped label, with its threat model where the table has several."""
        label = self.labels("attack", column.attack)
        if len({c.threat for c in table.columns}) > 1:
            label += f", {self.labels('threat', column.threat)}"
        label += " (minimal)" if column.minimal and math.isfinite(table.setting.eps) else ""
        return escape(label + (" (control)" if column in table.controls else ""))

    def ranking(self, table: Table) -> str:
        """Defenses by worst case, with every attack's own accuracy."""
        attacks = [self.column(table, c) for c in table.columns]
        header = ["rank", "defense", "clean accuracy", "worst case over attacks", *attacks]
        return pipe_table(header, [self.line(table, s) for s in table.standings])

    def line(self, table: Table, s: Standing) -> list[str]:
        """The cells of one defense's row."""
        worst = f"*{s.headline} controls only*" if s.controls_only else str(s.headline or "–")
        worst += marks(s)
        fixed = [str(s.rank or "–"), escape(self.labels("defense", s.defense)), str(s.clean or "–"), worst]
        return fixed + [self.cell(s.cells.get(c), table.setting.eps) for c in table.columns]

    def cell(self, result: Result | None, eps: float) -> str:
        """One accuracy with its interval, or in words why there is none that counts."""
        if result is None:
            return "no result"
        value = robust_interval(result, eps)
        if result.status == "ok":
            return f"{value}{_size(result) if math.isinf(eps) else ''}"
        if result.status == "suspect" and value:
            why = ", ".join(escape(f.id) for f in result.flags if f.severity == "invalid")
            return f"~~{value.value:.3f}~~ *suspect{f' ({why})' if why else ''}*"
        estimate = cost(result)["estimate_seconds"]
        if result.status == "not run" and self.times and estimate is not None:
            return f"not run (~{duration(estimate)})"
        return {"not applicable": "n/a"}.get(result.status, result.status)

    def detection(self, table: Table) -> str:
        """How well each defense's detectors tell each attack's examples; empty where none has any."""
        header = ["defense", "attack", *FIGURES, "n", "AUC of each"]
        lines = []
        for standing, column, result in table.results:
            if result.detection and measured(result):
                names = [escape(self.labels("defense", standing.defense)), self.column(table, column)]
                lines.append([*names, *together(result.detection, result.counts)])
        return pipe_table(header, lines) if lines else ""

    def costs(self, table: Table) -> str:
        """What each cell with a number cost; empty where there is none."""
        header = ["defense", "attack", "gradients", "forward passes/image", "backward passes/image"]
        timed = ["crafting s/image", "defense s/image", "training s"] if self.times else []
        lines = []
        for standing, column, result in table.results:
            if measured(result):
                names = [escape(self.labels("defense", standing.defense)), self.column(table, column)]
                lines.append([*names, escape(", ".join(result.gradients)) or "–", *self.spent(result)])
        return pipe_table([*header, *timed], lines) if lines else ""

    def spent(self, result: Result) -> list[str]:
        """Passes, then times where they are shown."""
        keys = ["forward_passes_per_image", "backward_passes_per_image"]
        if self.times:
            keys += ["craft_seconds_per_image", "defense_seconds_per_image", "training_seconds"]
        values = cost(result)
        return [number(values[key]) for key in keys]


def _size(result: Result) -> str:
    median = median_size(result)
    return "" if median is None else f", median size {number(median)}"

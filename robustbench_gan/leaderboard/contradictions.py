"""What the cells of a run say of each other: flags that no cell can raise alone, in Markdown and for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from robustbench_gan.base.errors import one_line
from robustbench_gan.flags.across import Across, Findings
from robustbench_gan.flags.thresholds import LEVEL, MARGIN
from robustbench_gan.leaderboard.labels import Labels, escape, radius
from robustbench_gan.leaderboard.pipes import pipe_table
from robustbench_gan.nouns.record import Cell, Result


def contradictions(results: Sequence[Result], findings: Findings, labels: Labels) -> list[str]:
    """A section of its own: how many comparisons were made, and what they found; empty without a result."""
    if not any(r.outcomes for r in results):
        return []
    asked = f"{findings.comparisons} comparisons" if findings.comparisons != 1 else "1 comparison"
    text = (
        f"Attacks held against each other on the same images, by an exact sign test over images: {asked}, corrected "
        f"together by Holm's method at {LEVEL:g}; a difference of at most {MARGIN:g} is never flagged. "
        "`rbg explain FLAG` says what a flag means. None raised is no proof of robustness."
    )
    by_cell = {r.fingerprint: r for r in results}
    lines = [
        [f"**{escape(one.flag.id)}**", one.flag.severity, "; ".join(places(one, by_cell, labels)), facts(one)]
        for one in findings.found
    ]
    table = pipe_table(["flag", "severity", "in", "evidence"], lines) if lines else "No flag was raised."
    return ["## Red flags across cells", text, table]


def places(one: Across, by_cell: dict[str, Result], labels: Labels) -> list[str]:
    """The cells that a flag concerns, each once, escaped."""
    found = dict.fromkeys(_place(by_cell[cell].cell, labels) for cell in one.cells if cell in by_cell)
    return [escape(text) for text in sorted(found)]


def _place(cell: Cell, labels: Labels) -> str:
    names = f"{labels('defense', cell.defense)} × {labels('attack', cell.attack)}, {labels('threat', cell.threat)}"
    goal = "" if cell.goal == "untargeted" else f", {cell.goal}"
    among = [kind for kind in ("dataset", "classifier") if kind in labels.telling()]
    where = "".join(f"{labels(kind, getattr(cell, kind))} / " for kind in among)
    return f"{where}{names}{goal}, {radius(cell.norm, cell.eps)}"


def facts(one: Across) -> str:
    """The evidence on one line, escaped."""
    found = one.flag.evidence
    if "witness" not in found:
        return escape(", ".join(f"{key} {value}" for key, value in found.items() if key != "comparisons"))
    return escape(
        f"{found['accuracy']} stands, {found['against']} against {found['witness']} "
        f"(n = {found['images']}, corrected p = {found['p']})"
    )


def told(findings: Findings, results: Sequence[Result]) -> Iterator[tuple[str, str]]:
    """Severity and one plain line a flag, for a terminal."""
    labels, by_cell = Labels.among(results), {r.fingerprint: r for r in results}
    for one in findings.found:
        where = sorted({_place(by_cell[cell].cell, labels) for cell in one.cells})
        yield one.flag.severity, one_line(f"{one.flag.id}: {one.flag.message} In {'; '.join(where)}.", 400)

"""The verdict table for people, as Markdown and on the console. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from robustbench_gan.base.errors import one_line, told
from robustbench_gan.flags.thresholds import LEVEL
from robustbench_gan.leaderboard.labels import escape

if TYPE_CHECKING:
    from robustbench_gan.audit.record import Audit, Row

STYLES = {"invalid": "red", "warning": "yellow", "failed": "red", "not run": "dim", "not applicable": "dim"}
HEADER = ("check", "what was asked", "figure", "verdict")


def verdict(row: Row) -> str:
    """`nothing found`, the flags with their severity, or why there is nothing to say."""
    raised = ", ".join(f"{flag.id} ({flag.severity})" for flag in row.flags)
    if row.verdict == "flagged":
        return raised
    reason = f": {row.reason}" if row.reason else ""
    return f"{row.verdict}{reason}" + (f"; {raised}" if raised else "")


def figure(row: Row) -> str:
    """The figure with n and, where chance had a say, the corrected p."""
    parts = [row.figure, f"n {row.n}" if row.n else "", "" if row.p is None else f"p {row.p:.2g}"]
    return "; ".join(part for part in parts if part)


def console_table(audit: Audit) -> Table:
    """A rich table."""
    table = Table(*HEADER)
    for row in audit.rows:
        worst = row.flags[0].severity if row.flags else row.verdict
        cells = [f"{row.check} ({row.pitfall})", row.question, figure(row)]
        table.add_row(
            *map(Text, map(told, cells)), Text(told(verdict(row)), style=STYLES.get(worst, "default"))
        )
    return table


def closing(audit: Audit) -> list[str]:
    """What is said below the table: the correction, and that passing is no proof."""
    found = sum(row.verdict == "flagged" for row in audit.rows)
    silent = sum(row.verdict in ("failed", "not run") for row in audit.rows)
    n = audit.comparisons
    lines = [
        f"{len(audit.rows)} checks: {found} raised flags, {silent} failed or were not run. "
        f"{n} {'comparison' if n == 1 else 'comparisons'}, corrected together (Holm): "
        f"the chance that any of them is a false alarm is at most {LEVEL:g}."
    ]
    if any(row.flags for row in audit.rows):
        lines.append("`rbg explain FLAG` says what a flag means and what to do about it.")
    return [*lines, audit.statement]


def markdown(audit: Audit) -> str:
    """The page audit.md."""
    a = audit.asked
    lines = [
        f"# Audit of {escape(str(a.defense))}",
        "",
        f"{escape(str(a.dataset))}, classifier {escape(str(a.classifier))}, {a.norm} eps {a.eps:g}, "
        f"{a.samples} images, seed {a.seed}, PGD of {a.steps} steps with every gradient that applies.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "| " + " | ".join("---" for _ in HEADER) + " |",
    ]
    for row in audit.rows:
        shown = one_line(figure(row)).replace("|", "\\|")
        lines.append(
            f"| {escape(row.check)} ({row.pitfall}) | {escape(row.question)} | {shown} | {escape(verdict(row), 300)} |"
        )
    return "\n".join([*lines, "", "\n\n".join(closing(audit))]) + "\n"

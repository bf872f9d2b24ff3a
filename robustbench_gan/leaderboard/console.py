"""The table that a run prints to the terminal: one row a cell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from robustbench_gan.base.errors import one_line
from robustbench_gan.flags.across import Findings
from robustbench_gan.leaderboard.flat import clean_interval, cost, flag_ids, robust_interval
from robustbench_gan.leaderboard.labels import Labels, number, radius
from robustbench_gan.leaderboard.load import order
from robustbench_gan.nouns.record import Result

if TYPE_CHECKING:
    from rich.table import Table

STYLES = {"ok": "green", "suspect": "yellow", "failed": "red"}


def console_table(results: Iterable[Result], findings: Findings | None = None) -> Table:
    """A compact table, one row a cell, or a row a budget that a minimal-norm attack was asked for.

    Dataset, goal and budget have a column only where they vary. A number that does not count is shown in parentheses.
    The flags of a cell are its own and those that `findings`, across cells, raise against it.
    """
    from rich.table import Table
    from rich.text import Text

    labels = Labels.among(results := sorted(results, key=order))
    ordered = [(result, eps) for result in results for eps in result.budgets or [result.cell.eps]]
    lines = [_line(result, eps, labels, flag_ids(result, findings)) for result, eps in ordered]
    shared = {key for key in ("dataset", "goal", "budget") if len({line[key] for line in lines}) == 1}
    table = Table(title=Text(", ".join(lines[0][key] for key in sorted(shared))) if shared else None)
    keys = [key for key in (lines[0] if lines else {}) if key not in shared]
    for key in keys:
        table.add_column(key)
    for line, (result, _) in zip(lines, ordered, strict=True):
        style = STYLES.get(result.status, "dim")
        table.add_row(*(Text(line[key], style=style if key == "status" else "") for key in keys))
    return table


def _line(result: Result, eps: float, labels: Labels, flags: list[str]) -> dict[str, str]:
    """The cells of one row by column name; plain text on one line, never markup."""
    cell, spent = result.cell, cost(result)
    clean, robust = clean_interval(result), robust_interval(result, eps)
    shown = str(robust) if robust else "–"
    line = {"dataset": labels("dataset", cell.dataset), "classifier": labels("classifier", cell.classifier)}
    line |= {"defense": labels("defense", cell.defense), "threat": labels("threat", cell.threat)}
    line |= {"goal": cell.goal, "budget": radius(cell.norm, eps)}
    line |= {"attack": labels("attack", cell.attack) + (" (control)" if result.control else "")}
    line |= {"clean": f"{clean.value:.3f}" if clean else "–"}
    line |= {"robust": shown if result.counts or robust is None else f"({shown})", "n": str(cell.samples)}
    line |= {"status": result.status, "flags": " ".join(flags)}
    line |= {"s/image craft": number(spent["craft_seconds_per_image"])}
    line |= {"s/image defense": number(spent["defense_seconds_per_image"])}
    return {key: one_line(text) for key, text in line.items()}

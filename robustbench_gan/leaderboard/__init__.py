"""Leaderboard: validated results in; flat rows, Markdown and a console table out. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_gan.base.public import offered

if TYPE_CHECKING:
    from robustbench_gan.leaderboard.console import console_table
    from robustbench_gan.leaderboard.flat import at_budget, rows
    from robustbench_gan.leaderboard.headline import Standing, Table, tables
    from robustbench_gan.leaderboard.load import load_results
    from robustbench_gan.leaderboard.page import markdown
    from robustbench_gan.leaderboard.spreadsheet import frame
    from robustbench_gan.leaderboard.write import build, picture, refuse_to_replace

__all__ = [
    "Standing",
    "Table",
    "at_budget",
    "build",
    "console_table",
    "frame",
    "load_results",
    "markdown",
    "picture",
    "refuse_to_replace",
    "rows",
    "tables",
]
__getattr__ = offered(__name__)

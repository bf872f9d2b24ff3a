"""Leaderboard: validated results in; flat rows, Markdown and a console table out. No torch."""

from robustbench_gan.leaderboard.console import console_table
from robustbench_gan.leaderboard.flat import at_budget, frame, rows
from robustbench_gan.leaderboard.headline import Standing, Table, tables
from robustbench_gan.leaderboard.load import load_results
from robustbench_gan.leaderboard.page import build, markdown, picture, refuse_to_replace

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

"""Flat rows as a DataFrame and as cells of a CSV file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from robustbench_gan.base.errors import LONGEST, one_line
from robustbench_gan.flags.across import across
from robustbench_gan.leaderboard.flat import rows
from robustbench_gan.nouns.record import Result


def csv_text(value: Any) -> Any:
    """A value for a cell of a CSV file: a text that a spreadsheet would compute begins with an apostrophe.

    A number is a number, also one that begins with a minus.
    """
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if not isinstance(value, str):
        return value
    line = one_line(value, LONGEST)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) and not _is_number(line) else line


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def frame(results: Iterable[Result]) -> Any:
    """The rows as a pandas DataFrame, for analysis and for CSV."""
    import pandas as pd  # slow to import, and nothing else here needs it

    results = list(results)
    return pd.DataFrame(rows(results, findings=across(results)))

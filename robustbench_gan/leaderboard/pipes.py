"""Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence


def pipe_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells that are escaped already."""
    rule = ["---"] * len(header)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines])

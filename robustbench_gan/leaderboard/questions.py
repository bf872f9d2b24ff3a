"""What a result answers, and the order in which results stand. No torch."""

from __future__ import annotations

from typing import Any

from robustbench_gan.nouns.record import Cell, Result

QUESTION = tuple(name for name in Cell.model_fields if name != "identity")


def question(cell: Cell) -> tuple[Any, ...]:
    """What a cell asks, without the hashes of the code, data and weights that answered it."""
    return tuple(getattr(cell, name) for name in QUESTION)


def order(result: Result) -> tuple[Any, ...]:
    """The sort key of results: by what they ask, never by when or where they were made."""
    return (*question(result.cell), result.fingerprint)

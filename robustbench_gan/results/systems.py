"""Which system a result is of, and what was trained in it. No torch."""

from __future__ import annotations

from robustbench_gan.nouns.record import Cell, Result

SYSTEM = ("dataset", "classifier", "defense")  # what a row of a table is of


Version = dict[str, str]


def system_of(cell: Cell) -> tuple[str, ...]:
    """What a row of a table is of."""
    return tuple(str(getattr(cell, name)) for name in SYSTEM)


def system_weights(result: Result) -> Version:
    """The content hashes of what was trained in the system judged; one recipe may train to others elsewhere."""
    own = {n: d for n, d in result.weights.items() if n == "classifier" or n.startswith("defense.")}
    return {f"weights of {name}": digest for name, digest in own.items()}

"""Where the record of a cell lies in a directory of results. No torch."""

from __future__ import annotations

from pathlib import Path

from robustbench_gan.base.files import slug
from robustbench_gan.nouns.record import Cell
from robustbench_gan.nouns.spec import Spec


def short(text: str) -> str:
    """A spec without its parameters, for labels: `ape-gan+magnet`."""
    return "+".join(part.partition(":")[0] for part in text.split("+"))


def place(cell: Cell) -> Path:
    """Where a cell's record lies, from `results` on: one file a question, so that a newer answer replaces an older."""
    parts = [Spec.of(cell.dataset).name, short(cell.classifier), short(cell.defense), cell.threat_name]
    # The attack's name is cut, never the hash and the ending behind it.
    name = f"{slug(short(cell.attack))[:36]}-{cell.norm}-{cell.eps:g}-{cell.question[:16]}.json"
    return Path(*(slug(part) for part in parts), slug(name))

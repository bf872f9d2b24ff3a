"""Where the record of a cell lies in a directory of results. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from robustbench_gan.base.as_text import AsText
from robustbench_gan.base.files import slug
from robustbench_gan.nouns.record import Cell


def short(named: AsText) -> str:
    """A spec without its parameters, for paths: `ape-gan+magnet`.

    Cut from its text: also a `+` inside a value has always begun a name here, and a record must be found again.
    """
    return re.sub(r":[^+]*", "", str(named))


def place(cell: Cell) -> Path:
    """Where a cell's record lies, from `results` on: one file a question, so that a newer answer replaces an older."""
    parts = [cell.dataset.name, short(cell.classifier), short(cell.defense), cell.threat_name]
    # The attack's name is cut, never the hash and the ending behind it.
    name = f"{slug(short(cell.attack))[:36]}-{cell.norm}-{cell.eps:g}-{cell.question[:16]}.json"
    return Path(*(slug(part) for part in parts), slug(name))

"""What red flags read off the text of a cell: the attack's parameters, the threat model, the budget. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustbench_gan.nouns.record import Cell

HOLDS_DEFENSE = ("white-box", "seed-known")


@dataclass(frozen=True)
class Question:
    """What a cell's own text says: the attack's parameters, the threat model by name, its draws of EOT, the budget."""

    parameters: Mapping[str, Any]
    threat: str
    draws: int
    norm: str
    eps: float
    targeted: bool

    @classmethod
    def of(cls, cell: Cell) -> Question:
        """Of a cell."""
        draws, targeted = cell.threat.get("draws", 1), cell.goal != "untargeted"
        return cls(dict(cell.attack.params), cell.threat_name, int(draws), cell.norm, cell.eps, targeted)

    @property
    def white(self) -> bool:
        """The attacker holds the defense with all weights."""
        return self.threat in HOLDS_DEFENSE

    @property
    def holds_defense(self) -> bool:
        """The attack runs through the defended system itself."""
        return self.white or self.threat == "query"

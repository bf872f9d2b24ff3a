"""What is asked of a workshop: the system by its names, and an attack that must first be trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from robustbench_gan.contracts.threat import ThreatModel
from robustbench_gan.nouns.budget import Budget

if TYPE_CHECKING:
    pass


Names = tuple[str, str, str]  # data set, classifier and defense


@dataclass(frozen=True)
class Order:
    """What is to be trained: an attack's full spec, for which system and attacker, towards which class and how far.

    `target` is None for an untargeted goal, and for a conditional attack whatever the goal.
    """

    names: Names
    attack: str
    threat: ThreatModel
    target: int | None
    budget: Budget

"""Red flags that need no number: of an attack's parameters, and of what ended a cell. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from robustbench_gan.flags import thresholds as at
from robustbench_gan.flags.catalogue import flag
from robustbench_gan.flags.evidence import HOLDS_DEFENSE
from robustbench_gan.nouns.evidence import Evidence
from robustbench_gan.nouns.record import Cell, Flag
from robustbench_gan.nouns.spec import Spec


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
        """Of a cell. Raises UsageError where attack or threat model are no specs, as in a stranger's record."""
        draws = dict(Spec.of(cell.threat).params).get("draws", 1)
        parameters = dict(Spec.of(cell.attack).params)
        targeted = cell.goal != "untargeted"
        return cls(parameters, cell.threat_name, int(draws), cell.norm, cell.eps, targeted)

    @property
    def white(self) -> bool:
        """The attacker holds the defense with all weights."""
        return self.threat in HOLDS_DEFENSE

    @property
    def holds_defense(self) -> bool:
        """The attack runs through the defended system itself."""
        return self.white or self.threat == "query"


def parameter_flags(q: Question, seen: Evidence) -> list[Flag]:
    """What the parameters of an attack that can be run say."""
    faults = _weaknesses(q, seen)
    return [flag("weak-hyper-parameters", **faults)] if faults else []


def _weaknesses(q: Question, seen: Evidence) -> dict[str, float | int | str]:
    """The parameters at fault, with what they should be held against; empty where none is."""
    values = q.parameters
    if seen.needs != "gradient" or seen.trained or q.eps == 0:
        return {}
    found: dict[str, float | int | str] = {}
    if float(values.get("lr", 0)) > at.GREATEST_RATE:
        found["lr"] = float(values["lr"])
    steps, step = values.get("steps"), float(values.get("step", 0))
    if seen.minimal or not isinstance(steps, int) or math.isinf(q.eps):
        return found
    if q.norm == "linf" and steps < at.LEAST_STEPS:
        found["steps"] = steps
    if step > q.eps or 0 < step * steps < q.eps * (1 - 1e-9):
        found |= {"steps": steps, "step": step, "eps": q.eps}
    if values.get("restarts", 1) > 1 and values.get("random_start") is False:
        found |= {"restarts": values["restarts"], "random_start": "false"}
    return found


def undefined_losses(q: Question, classes: int) -> list[Flag]:
    """What the parameters of an attack that found itself not applicable say, of data of so many classes."""
    loss = str(q.parameters.get("loss", ""))
    least = 4 if q.targeted or loss == "dlr-targeted" else 3
    if not loss.startswith("dlr") or classes >= least:
        return []
    return [flag("dlr-undefined", classes=classes, needed=least)]


def flags_of_error(error: BaseException) -> list[Flag]:
    """The flag that names a failure, where there is one."""
    try:
        name = getattr(error, "flag", "")
    except Exception:  # a stranger's exception may be anything
        return []
    told = isinstance(name, str) and name in ("disconnected-gradient", "budget-violation", "not-a-number")
    return [flag(name, "invalid")] if told else []

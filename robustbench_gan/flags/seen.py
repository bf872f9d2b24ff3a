"""What the flags across cells read off a record: the kind of attack, and what stood at which radius. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from robustbench_gan.flags.question import HOLDS_DEFENSE
from robustbench_gan.nouns.record import Result
from robustbench_gan.nouns.spec import Chain, Classifier, Spec

CARRIED_OVER = ("black-box", "gray-box")
Numbers = np.ndarray[Any, np.dtype[np.float64]]


class Group(NamedTuple):
    """What all cells that may be compared share."""

    dataset: Spec
    classifier: Classifier
    defense: Chain
    norm: str
    seed: int
    train_seed: str


@dataclass(frozen=True)
class Seen:
    """A cell at one radius: a minimal-norm one is seen at every finite radius that it was asked for."""

    result: Result
    eps: float
    stands: Numbers  # (N,), the mean over judge seeds
    parameters: dict[str, Any]

    @property
    def accuracy(self) -> float:
        """Robust accuracy at this radius."""
        return float(self.stands.mean())

    @property
    def white(self) -> bool:
        """The attacker holds the defense with all weights."""
        return self.result.cell.threat_name in HOLDS_DEFENSE

    @property
    def minimal(self) -> bool:
        """The attack seeks the smallest perturbation."""
        return math.isinf(self.result.cell.eps)

    @property
    def aims(self) -> bool:
        """It took gradients, or was trained with them."""
        outcomes = self.result.outcomes
        return bool(self.result.trained) or (outcomes is not None and any(outcomes.backward))

    @property
    def asks(self) -> bool:
        """It looked at answers of the defended system, and at no gradient."""
        outcomes = self.result.outcomes
        holds = self.white or self.result.cell.threat_name == "query"
        asked = outcomes is not None and any(outcomes.forward)
        return holds and asked and not self.aims and not self.result.control

    @property
    def steps(self) -> int | None:
        """How many steps it takes with gradients in a ball, 1 without such a parameter; None for other attacks."""
        if not self.aims or self.minimal or self.result.trained:
            return None
        steps = self.parameters.get("steps", 1)
        return steps if isinstance(steps, int) else None

    @property
    def name(self) -> str:
        """For readers: attack, threat model and goal."""
        cell = self.result.cell
        return f"{cell.attack.name} under {cell.threat_name}, {cell.goal}, eps {self.eps:g}"


def group_of(result: Result) -> Group:
    """The group of a cell."""
    c = result.cell
    return Group(c.dataset, c.classifier, c.defense, c.norm, c.seed, c.identity.get("train_seed", ""))


def seen(results: Iterable[Result]) -> Iterator[Seen]:
    """Every result with a number, at every radius."""
    for result in results:
        if result.outcomes is None or result.status not in ("ok", "suspect"):
            continue
        radii = [result.cell.eps] if math.isfinite(result.cell.eps) else result.budgets
        for eps in sorted({r for r in radii if math.isfinite(r)}):
            yield Seen(
                result, eps, result.outcomes.robust_at(eps).mean(axis=0), dict(result.cell.attack.params)
            )


def shared(one: Seen, other: Seen) -> tuple[Numbers, Numbers]:
    """What stands of each on the images that both judged; empty where there are none."""
    a, b = one.result.cell, other.result.cell
    first, end = max(a.first, b.first), min(a.first + a.samples, b.first + b.samples)
    if end <= first:
        return one.stands[:0], other.stands[:0]
    return one.stands[first - a.first : end - a.first], other.stands[first - b.first : end - b.first]

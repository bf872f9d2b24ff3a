"""A check of an audit: its question, the cells that it needs, when it applies, and how it looks at a system."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from robustbench_gan.audit.record import Finding
    from robustbench_gan.audit.system import System


class Wanted(NamedTuple):
    """A cell that a check needs: the attack, its threat model and its budget."""

    attack: str
    threat: str
    norm: str
    eps: float


Look = Callable[["System"], "Finding"]  # what a check finds in a system


def no_cells(system: System) -> Sequence[Wanted]:
    """Of a check that asks the system itself."""
    return ()


def always(system: System) -> str:
    """The reason of a check that applies to everything."""
    return ""


def not_random(system: System) -> str:
    """The reason for a defense without randomness to average over."""
    return "" if system.randomised else "the defense is not declared random: there are no draws"


def nothing(system: System) -> float:
    """Seconds, of a check that costs next to nothing beside its cells."""
    return 0.0


@dataclass(frozen=True)
class Check:
    """One question of an audit.

    `flags` are the ids that it may raise. `cells` are run and stored by the engine before `look` is called.
    `why_not` says, before any run, why a check does not apply. `seconds` estimates what `look` costs beside the
    cells, and what it then sees is stored; `cost` says it for people.
    """

    name: str
    pitfall: str
    question: str
    flags: tuple[str, ...]
    look: Look
    cost: str
    cells: Callable[[System], Sequence[Wanted]] = no_cells
    why_not: Callable[[System], str] = always
    seconds: Callable[[System], float] = nothing

    @property
    def kept(self) -> bool:
        """What it sees took time of its own, and is stored; the rest is read off the cells again."""
        return self.seconds is not nothing

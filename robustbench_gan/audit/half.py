"""P14: nothing above chance may stand at linf eps 0.5, where every image can be made the same grey."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_gan.audit.check import Check, Wanted
from robustbench_gan.audit.compare import share_above
from robustbench_gan.audit.record import Finding
from robustbench_gan.flags import thresholds as at
from robustbench_gan.nouns.statistics import interval

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System


def cells(system: System) -> list[Wanted]:
    """PGD at linf eps 0.5, whatever norm was asked for."""
    return [system.pgd(norm="linf", eps=at.HALF)]


def look(system: System) -> Finding:
    """What stands against chance and the catalogue's tolerance; an image counts by its rounded mean over seeds."""
    stands = system.stands(cells(system)[0])
    chance, n = 1 / len(system.workshop.dataset(system.names()[0]).classes), len(stands)
    least = max(at.ABOVE_CHANCE, at.tolerance(chance, n))
    test = share_above("robust-at-half", "invalid", round(float(stands.sum())), n, chance, least)
    accuracy = interval(stands, "audit")
    return Finding(figure=f"{accuracy}, chance {chance:.3g}", n=n, interval=accuracy, tests=[test])


CHECK = Check(
    "half", "P14", "does more than chance stand at linf eps 0.5?", ("robust-at-half",), look,
    "PGD at linf eps 0.5", cells=cells,
)  # fmt: skip

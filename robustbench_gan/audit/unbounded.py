"""P15: an attack that may use the whole box must reach nearly every image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_gan.audit.check import Check, Wanted
from robustbench_gan.audit.compare import share_above
from robustbench_gan.audit.record import Finding
from robustbench_gan.flags.thresholds import UNBOUNDED_FAILURES

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System


def cells(system: System) -> list[Wanted]:
    """PGD in linf with eps 1: no bound but the range of pixels.

    Not a minimal-norm attack: its examples lie just past a boundary, and a random defense moves that under the judge.
    """
    return [system.pgd(norm="linf", eps=1.0)]


def look(system: System) -> Finding:
    """Of the images right under some seed, those that the example fooled under none of the seeds it is right under."""
    outcomes = system.results[cells(system)[0]].outcomes
    assert outcomes is not None
    clean, robust = outcomes.array("clean"), outcomes.array("robust")
    attackable = clean.any(axis=0)
    failed, tries = int((attackable & (clean == robust).all(axis=0)).sum()), int(attackable.sum())
    if not tries:
        return Finding(not_applicable="no image is classified right unperturbed")
    test = share_above("unbounded-attack-fails", "warning", failed, tries, UNBOUNDED_FAILURES)
    return Finding(figure=f"{failed} of {tries} not reached", n=tries, tests=[test])


CHECK = Check(
    "unbounded", "P15", "does an attack without a bound reach every image?", ("unbounded-attack-fails",), look,
    "PGD over the whole box", cells=cells,
)  # fmt: skip

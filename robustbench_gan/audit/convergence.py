"""P17: twice the iterations must not find more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_gan.audit.check import Check, Wanted
from robustbench_gan.audit.compare import finding

if TYPE_CHECKING:
    from robustbench_gan.audit.record import Finding
    from robustbench_gan.audit.system import System


def cells(system: System) -> list[Wanted]:
    """k and 2k iterations."""
    return [system.pgd(), system.pgd(steps=2 * system.asked.steps)]


def look(system: System) -> Finding:
    """What k iterations leave against what 2k leave."""
    once, twice = (system.stands(cell) for cell in cells(system))
    k = system.asked.steps
    return finding("not-converged", "warning", (f"{k} steps", once), (f"{2 * k} steps", twice))


CHECK = Check(
    "convergence", "P17", "does PGD find more in twice the iterations?", ("not-converged",), look,
    "PGD of twice the steps", cells=cells,
)  # fmt: skip

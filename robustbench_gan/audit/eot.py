"""P7: twice the EOT draws must not find more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_gan.audit.check import Check, Wanted, not_random
from robustbench_gan.audit.compare import finding

if TYPE_CHECKING:
    from robustbench_gan.audit.record import Finding
    from robustbench_gan.audit.system import System


def cells(system: System) -> list[Wanted]:
    """N and 2N draws."""
    return [system.pgd(), system.pgd(draws=2 * system.asked.eot)]


def look(system: System) -> Finding:
    """What N draws leave against what 2N leave."""
    once, twice = (system.stands(cell) for cell in cells(system))
    n = system.asked.eot
    return finding("eot-not-converged", "warning", (f"{n} draws", once), (f"{2 * n} draws", twice))


CHECK = Check(
    "eot", "P7", "does PGD find more with twice the EOT draws?", ("eot-not-converged",), look,
    "PGD of twice the draws", cells=cells, why_not=not_random,
)  # fmt: skip

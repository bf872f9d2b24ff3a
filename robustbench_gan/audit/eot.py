"""P7: twice the EOT draws must not find more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_gan.audit.check import not_random
from robustbench_gan.audit.stronger import Run, must_not_beat

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System


def runs(system: System) -> tuple[Run, Run]:
    """N and 2N draws."""
    n = system.asked.eot
    return (f"{n} draws", system.pgd()), (f"{2 * n} draws", system.pgd(draws=2 * n))


CHECK = must_not_beat(
    "eot",
    "P7",
    "does PGD find more with twice the EOT draws?",
    "eot-not-converged",
    "PGD of twice the draws",
    runs,
    not_random,
)

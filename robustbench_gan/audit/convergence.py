"""P17: twice the iterations must not find more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_gan.audit.stronger import Run, must_not_beat

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System


def runs(system: System) -> tuple[Run, Run]:
    """k and 2k iterations."""
    k = system.asked.steps
    return (f"{k} steps", system.pgd()), (f"{2 * k} steps", system.pgd(steps=2 * k))


CHECK = must_not_beat(
    "convergence",
    "P17",
    "does PGD find more in twice the iterations?",
    "not-converged",
    "PGD of twice the steps",
    runs,
)

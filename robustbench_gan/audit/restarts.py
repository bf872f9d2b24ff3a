"""P18: ten random starts must not find more than one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from robustbench_gan.audit.stronger import Run, must_not_beat

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System

STARTS: Final = 10


def runs(system: System) -> tuple[Run, Run]:
    """One random start, and ten."""
    return ("1 start", system.pgd()), (f"{STARTS} starts", system.pgd(restarts=STARTS))


CHECK = must_not_beat(
    "restarts",
    "P18",
    f"does PGD find more from {STARTS} random starts than from one?",
    "restarts-matter",
    f"PGD {STARTS} times; won images stop costing where the defense is not random",
    runs,
)

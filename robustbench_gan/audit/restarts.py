"""P18: ten random starts must not find more than one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from robustbench_gan.audit.check import Check, Wanted
from robustbench_gan.audit.compare import finding

if TYPE_CHECKING:
    from robustbench_gan.audit.record import Finding
    from robustbench_gan.audit.system import System

STARTS: Final = 10


def cells(system: System) -> list[Wanted]:
    """One random start, and ten."""
    return [system.pgd(), system.pgd(restarts=STARTS)]


def look(system: System) -> Finding:
    """What one start leaves against what ten leave."""
    one, ten = (system.stands(cell) for cell in cells(system))
    return finding("restarts-matter", "warning", ("1 start", one), (f"{STARTS} starts", ten))


CHECK = Check(
    "restarts", "P18", f"does PGD find more from {STARTS} random starts than from one?", ("restarts-matter",), look,
    f"PGD {STARTS} times; won images stop costing where the defense is not random", cells=cells,
)  # fmt: skip

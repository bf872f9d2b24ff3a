"""P8: an attack that knows the judge's seed must not be weaker than one that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_gan.audit.check import Check, Wanted, not_random
from robustbench_gan.audit.compare import finding

if TYPE_CHECKING:
    from robustbench_gan.audit.record import Finding
    from robustbench_gan.audit.system import System


def cells(system: System) -> list[Wanted]:
    """The seed known, and fresh seeds under EOT."""
    return [system.pgd(threat="seed-known"), system.pgd()]


def look(system: System) -> Finding:
    """What stands when the attacker knows the seed against what stands when it does not."""
    known, fresh = (system.stands(cell) for cell in cells(system))
    return finding("seed-does-not-help", "warning", ("known seed", known), ("fresh seeds", fresh))


CHECK = Check(
    "fixed-seed", "P8", "is PGD weaker when it knows the seed?", ("seed-does-not-help",), look,
    "PGD without EOT, once a judge seed", cells=cells, why_not=not_random,
)  # fmt: skip

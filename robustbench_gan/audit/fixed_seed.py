"""P8: an attack that knows the judge's seed must not be weaker than one that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_gan.audit.check import not_random
from robustbench_gan.audit.stronger import Run, must_not_beat

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System


def runs(system: System) -> tuple[Run, Run]:
    """The seed known, and fresh seeds under EOT."""
    return ("known seed", system.pgd(threat="seed-known")), ("fresh seeds", system.pgd())


CHECK = must_not_beat(
    "fixed-seed",
    "P8",
    "is PGD weaker when it knows the seed?",
    "seed-does-not-help",
    "PGD without EOT, once a judge seed",
    runs,
    not_random,
)

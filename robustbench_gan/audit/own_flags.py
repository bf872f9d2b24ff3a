"""The flags that the audit's own cells raised while they ran: P1 to P3, P22 to P29 and the rest of the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_gan.audit.check import Check, Wanted
from robustbench_gan.audit.record import Finding
from robustbench_gan.flags import CATALOGUE

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System
    from robustbench_gan.nouns.flag import Flag

OWN_ROW = ("robust-at-half", "inference-time-optimisation", "undeclared-randomness", "always-on-dropout",
           "stateful-defense", "probabilities-as-logits", "no-eot")  # fmt: skip
ORDER = ("invalid", "warning", "note")


def cells(system: System) -> list[Wanted]:
    """The attack that the other checks vary."""
    return [system.pgd()]


def look(system: System) -> Finding:
    """Each flag once, as severe as any cell has it; those that a check of their own looks for are left to it."""
    worst: dict[str, Flag] = {}
    for result in system.results.values():
        for flag in result.flags:
            known = worst.setdefault(flag.id, flag)
            if ORDER.index(flag.severity) < ORDER.index(known.severity):
                worst[flag.id] = flag
    kept = [worst[name] for name in CATALOGUE if name in worst and name not in OWN_ROW]
    result = system.results[system.pgd()]
    interval = result.accuracy("robust")
    return Finding(
        figure=f"{interval} left by PGD, {result.accuracy('clean')} clean", n=result.cell.samples,
        interval=interval, flags=kept,
    )  # fmt: skip


CHECK = Check(
    "attack", "P1-P3, P22, P27-P32", "what do the audit's own attacks say of themselves?",
    tuple(k.id for k in CATALOGUE.values() if k.where == "cell" and k.id not in OWN_ROW), look,
    "one PGD cell, which the other checks share", cells=cells,
)  # fmt: skip

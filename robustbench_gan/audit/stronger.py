"""Checks of one shape: two runs of PGD, of which the one that works harder must not leave less standing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from robustbench_gan.audit.check import Check, Wanted, always
from robustbench_gan.audit.compare import finding

if TYPE_CHECKING:
    from robustbench_gan.audit.record import Finding
    from robustbench_gan.audit.system import System

Run = tuple[str, Wanted]  # a cell of PGD, and what it is called beside the other


def must_not_beat(
    name: str,
    pitfall: str,
    question: str,
    flag: str,
    cost: str,
    runs: Callable[[System], tuple[Run, Run]],
    why_not: Callable[[System], str] = always,
) -> Check:
    """A check that warns with `flag` where the first run leaves more standing than the second, beyond chance."""

    def cells(system: System) -> list[Wanted]:
        return [cell for _, cell in runs(system)]

    def look(system: System) -> Finding:
        accused, witness = ((called, system.stands(cell)) for called, cell in runs(system))
        return finding(flag, "warning", accused, witness)

    return Check(name, pitfall, question, (flag,), look, cost, cells=cells, why_not=why_not)

"""P31: examples should survive being stored as images of 8 bits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from robustbench_gan.audit.check import Check, Wanted
from robustbench_gan.audit.compare import apart, told
from robustbench_gan.audit.record import Finding
from robustbench_gan.cell.craft import craft
from robustbench_gan.cell.judge import judge

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System
    from robustbench_gan.flags.paired import Numbers

LEVELS = 255


def cells(system: System) -> list[Wanted]:
    """The attack whose examples are rounded."""
    return [system.pgd()]


def look(system: System) -> Finding:
    """The examples of PGD, made anew since no record keeps them, as they are and rounded to 8 bits.

    Rounding may leave the ball by half a level, which can only help the attack.
    """
    run = system.run_of(system.pgd())
    made, _ = craft(run)
    rounded = [replace(c, examples=(c.examples * LEVELS).round() / LEVELS) for c in made]
    after: Numbers = judge(run, rounded).robust.double().mean(dim=0).cpu().numpy()
    before = system.stands(system.pgd())
    test = apart("quantisation-sensitive", "warning", ("8 bits", after), ("float32", before))
    return Finding(figure=told(after, before), n=len(after), tests=[test])


CHECK = Check(
    "quantisation", "P31", "does rounding the examples to 8 bits change the accuracy?", ("quantisation-sensitive",),
    look, "the PGD cell once more", cells=cells, seconds=lambda system: system.cell_seconds(system.pgd()),
)  # fmt: skip

"""P13: a larger ball must not leave more standing."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from robustbench_gan.audit.check import Check, Wanted
from robustbench_gan.audit.compare import above
from robustbench_gan.audit.record import Finding
from robustbench_gan.flags.thresholds import HALF

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System
    from robustbench_gan.flags.paired import Numbers

SHARES: Final = (0.25, 0.5, 1.0)  # of eps; 0 is the clean accuracy


def cells(system: System) -> list[Wanted]:
    """A grid up to eps, and in linf half of the range of pixels beyond it."""
    eps, beyond = system.asked.eps, system.asked.norm == "linf" and system.asked.eps < HALF
    return [
        system.pgd(eps=radius) for radius in [*(share * eps for share in SHARES), *([HALF] if beyond else [])]
    ]


def look(system: System) -> Finding:
    """Every radius against the one before it, the first against no perturbation at all."""
    wanted = cells(system)
    outcomes = system.results[wanted[0]].outcomes
    assert outcomes is not None
    clean: Numbers = outcomes.array("clean").mean(axis=0)
    grid = [(0.0, clean), *((cell.eps, system.stands(cell)) for cell in wanted)]
    tests = [
        above("accuracy-rises-with-eps", "invalid", (f"eps {large:g}", b), (f"eps {small:g}", a))
        for (small, a), (large, b) in pairwise(grid)
    ]
    figure = ", ".join(f"{float(stands.mean()):.3f} at {eps:g}" for eps, stands in grid)
    return Finding(figure=figure, n=len(clean), tests=tests)


CHECK = Check(
    "eps-grid", "P13", "does a larger ball leave more standing?", ("accuracy-rises-with-eps",), look,
    "PGD at two smaller radii and at 0.5", cells=cells,
)  # fmt: skip

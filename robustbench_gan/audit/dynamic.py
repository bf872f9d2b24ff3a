"""P25: does the defense optimise while it answers?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_gan.audit.check import Check
from robustbench_gan.audit.record import Finding
from robustbench_gan.cell.probe import probe
from robustbench_gan.flags import flag
from robustbench_gan.nouns.evidence import PROBED

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System


def look(system: System) -> Finding:
    """Whether it declares that it iterates, or is seen to differentiate."""
    x, _ = system.images(PROBED)
    seen, declared = probe(system.defense, x, system.seeds("dynamic", len(x))), system.defense.unrolls
    dynamic = seen.differentiates or declared
    raised = [flag("inference-time-optimisation", declared=str(declared).lower())] if dynamic else []
    says = [
        *(["declared to iterate"] if declared else []),
        *(["seen to differentiate"] if seen.differentiates else []),
    ]
    figure = " and ".join(says) or "neither declared to iterate nor seen to differentiate"
    return Finding(figure=figure, n=len(x), flags=raised)


CHECK = Check(
    "dynamic", "P25", "does the defense optimise while it answers?", ("inference-time-optimisation",), look,
    f"5 answers of {PROBED} images", seconds=lambda system: 5 * system.forward_seconds(PROBED),
)  # fmt: skip

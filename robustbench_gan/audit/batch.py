"""P9: the answer to an image must not depend on the others in its batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from robustbench_gan.audit.check import Check
from robustbench_gan.audit.record import Finding
from robustbench_gan.contracts.systems import Defended
from robustbench_gan.flags import flag
from robustbench_gan.flags.counting import SAME_ANSWER
from robustbench_gan.nouns.outcome import Output, distance
from robustbench_gan.nouns.seeds import isolated

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System

IMAGES: Final = 10


def look(system: System) -> Finding:
    """Each image among others and among copies of itself, in its place of a batch of the same size.

    Copies are how the engine computes an image alone, and one shape leaves rounding no part in the difference. What
    the defense draws from torch's global generator is pinned, since randomness is another check's matter.
    """
    x, _ = system.images(IMAGES)
    seed = system.seeds("batch", len(x))
    among, again = _asked(system, x, seed), _asked(system, x, seed)
    if distance(among, again) > SAME_ANSWER:
        return Finding(not_applicable="the same batch is answered differently twice; see the check state")
    changed, furthest = 0, 0.0
    for at in range(len(x)):
        row = torch.full((len(x),), at, device=x.device)
        alone = _row(_asked(system, x[row], seed[row]), at)
        changed += int(alone.labels != _row(among, at).labels)
        furthest = max(furthest, distance(_row(among, at), alone))
    raised = []
    if furthest > SAME_ANSWER:
        raised = [
            flag("batch-dependent", labels_changed=changed, of=len(x), distance=float(f"{furthest:.4g}"))
        ]
    return Finding(figure=f"{changed} labels change, logits by {furthest:.2g}", n=len(x), flags=raised)


def _asked(system: System, x: Tensor, seed: Tensor) -> Output:
    with torch.no_grad(), isolated(0):
        return Defended(system.defense)(x, seed)


def _row(out: Output, at: int) -> Output:
    return Output(out.logits[at : at + 1], out.scores[at : at + 1])


CHECK = Check(
    "batch", "P9", "is an image answered differently among others?", ("batch-dependent",), look,
    f"{IMAGES + 2} answers of {IMAGES} images",
    seconds=lambda system: (IMAGES + 2) * system.forward_seconds(IMAGES),
)  # fmt: skip

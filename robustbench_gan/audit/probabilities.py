"""P4: answers must be logits, not probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from robustbench_gan.audit.check import Check
from robustbench_gan.audit.record import Finding
from robustbench_gan.flags import flag
from robustbench_gan.flags.thresholds import PROBABILITY_SLACK

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System

IMAGES = 100


def look(system: System) -> Finding:
    """Answers to images and to their negatives: are all in [0, 1], and do they sum to 1?"""
    x, _ = system.images(IMAGES)
    seed = system.seeds("probabilities", len(x))
    logits = torch.cat([system.answer(x, seed).logits, system.answer(1 - x, seed).logits]).double()
    inside = (logits > -PROBABILITY_SLACK) & (logits < 1 + PROBABILITY_SLACK)
    sums = (logits.sum(dim=1) - 1).abs()
    raised = []
    if bool(inside.all()) and bool((sums < PROBABILITY_SLACK).all()):
        raised = [flag("probabilities-as-logits", "invalid", images=len(x))]
    low, high = float(logits.min()), float(logits.max())
    return Finding(figure=f"answers from {low:.3g} to {high:.3g}", n=len(x), flags=raised)


CHECK = Check(
    "probabilities", "P4", "are the answers probabilities instead of logits?", ("probabilities-as-logits",), look,
    f"2 answers of {IMAGES} images", seconds=lambda system: 2 * system.forward_seconds(IMAGES),
)  # fmt: skip

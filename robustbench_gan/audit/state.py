"""P10: nothing may be carried over from one call to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustbench_gan.audit.check import Check
from robustbench_gan.audit.record import Finding
from robustbench_gan.flags import flag
from robustbench_gan.flags.counting import SAME_ANSWER
from robustbench_gan.nouns.outcome import Output, distance
from robustbench_gan.nouns.seeds import fold, isolated

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System
    from robustbench_gan.nouns.flag import Severity

IMAGES = 100


def look(system: System) -> Finding:
    """The same images under the same seeds twice in a row, and after another batch: bit for bit the same.

    On a graphics card, whose sums may come in any order, answers count as one up to SAME_ANSWER. Torch's global
    generator is set alike before every call, so that only what the defense keeps can differ.
    """
    x, _ = system.images(IMAGES)
    seed = system.seeds("state", len(x))
    first, again = _asked(system, x, seed), _asked(system, x, seed)
    _asked(system, 1 - x.flip(0), fold(seed, "another batch"))
    after = _asked(system, x, seed)
    furthest = max(distance(first, again), distance(first, after))
    changed = int(((first.labels != again.labels) | (first.labels != after.labels)).sum())
    same = furthest == 0 and _equal(first, again) and _equal(first, after)
    raised = []
    if not same and (x.device.type == "cpu" or furthest > SAME_ANSWER):
        severity: Severity = "invalid" if changed else "warning"
        raised = [
            flag("stateful-defense", severity, labels_changed=changed, distance=float(f"{furthest:.4g}"))
        ]
    return Finding(figure=f"{changed} labels change, logits by {furthest:.2g}", n=len(x), flags=raised)


def _asked(system: System, x: Tensor, seed: Tensor) -> Output:
    with isolated(0):
        return system.answer(x, seed)


def _equal(one: Output, other: Output) -> bool:
    """Bit for bit; NaN in both is the same."""
    pairs = ((one.logits, other.logits), (one.scores, other.scores))
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


CHECK = Check(
    "state", "P10", "does a call leave something behind for the next?", ("stateful-defense",), look,
    f"4 answers of {IMAGES} images", seconds=lambda system: 4 * system.forward_seconds(IMAGES),
)  # fmt: skip

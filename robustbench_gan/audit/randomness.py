"""P6 and P6b: what changes between two answers must be declared, and must not come from the classifier."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Final

import torch

from robustbench_gan.audit.check import Check
from robustbench_gan.audit.record import Finding
from robustbench_gan.contracts.systems import Bare, answer
from robustbench_gan.flags import flag
from robustbench_gan.flags.counting import SAME_ANSWER
from robustbench_gan.nouns.outcome import Output, correct, distance
from robustbench_gan.nouns.seeds import fold, isolated

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System

IMAGES: Final = 250  # as AutoAttack's check has it, both
PASSES: Final = 5


def look(system: System) -> Finding:
    """Five answers under five seeds, and two under one seed with torch's global generator at different places."""
    if _classifier_varies(system) > SAME_ANSWER:
        return Finding(not_applicable="the classifier alone answers differently twice; see the check dropout")
    x, y = system.images(IMAGES)
    seed = system.seeds("randomness", len(x))
    outs = []
    for at in range(PASSES):
        with isolated(0):
            outs.append(system.answer(x, fold(seed, at)))
    right = [int(correct(out, y).sum()) for out in outs]
    by_seed = _apart(outs)
    figure = f"{min(right)} to {max(right)} right, logits apart by {by_seed:.2g}"
    outs = []
    for at in range(2):
        with isolated(at + 1):
            outs.append(system.answer(x, seed))
    without_seed, kept = _apart(outs), _stays(system)
    raised = []
    if without_seed > SAME_ANSWER and kept <= SAME_ANSWER:
        evidence = float(f"{without_seed:.4g}")
        raised = [flag("undeclared-randomness", distance=evidence, under="the same seed")]
    elif by_seed > SAME_ANSWER and kept <= SAME_ANSWER and not system.defense.randomised:
        evidence = float(f"{by_seed:.4g}")
        raised = [
            flag("undeclared-randomness", distance=evidence, right_least=min(right), right_most=max(right))
        ]
    declared = "declared" if system.defense.randomised else "declared not random"
    return Finding(figure=f"{figure}; {declared}", n=len(x), flags=raised)


def look_at_classifier(system: System) -> Finding:
    """The classifier alone, asked five times."""
    furthest = _classifier_varies(system)
    raised = [flag("always-on-dropout", distance=float(f"{furthest:.4g}"))] if furthest > SAME_ANSWER else []
    n = min(IMAGES, system.asked.samples)
    return Finding(figure=f"logits apart by {furthest:.2g}", n=n, flags=raised)


def _classifier_varies(system: System) -> float:
    x, _ = system.images(IMAGES)
    outs = []
    with torch.no_grad():
        for at in range(PASSES):
            with isolated(at):
                outs.append(answer(Bare(system.defense.core), x, system.seeds("classifier", len(x))))
    return _apart(outs)


def _stays(system: System) -> float:
    """How far two answers differ with all randomness pinned: what a defense carries over is for the check state."""
    x, _ = system.images(IMAGES)
    outs = []
    for _ in range(2):
        with isolated(0):
            outs.append(system.answer(x, system.seeds("randomness", len(x))))
    return _apart(outs)


def _apart(outs: list[Output]) -> float:
    """The largest distance between any two answers."""
    return max(distance(one, other) for one, other in combinations(outs, 2))


RANDOMNESS = Check(
    "randomness", "P6", "does the defense declare its randomness and draw it from its seeds?",
    ("undeclared-randomness",), look, f"{PASSES + 4} answers of {IMAGES} images",
    seconds=lambda system: (PASSES + 4) * system.forward_seconds(min(IMAGES, system.asked.samples)),
)  # fmt: skip
DROPOUT = Check(
    "dropout", "P6b", "does the classifier alone answer alike every time?", ("always-on-dropout",),
    look_at_classifier, f"{PASSES} answers of the classifier to {IMAGES} images",
)  # fmt: skip

"""What arithmetic knows of the evidence that red flags are derived from. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from robustbench_gan.nouns.evidence import PROBED, Evidence, Shown, in_short
from robustbench_gan.nouns.record import Outcomes, Result
from robustbench_gan.results.arithmetic import LARGEST, is_digest

OF_GRADIENTS = (
    "called", "differentiated", "zero_gradients", "nan_gradients", "tiny_gradients", "flat_losses", "sure_tiny",
    "sure_flat",
)  # fmt: skip


def evidence_is(result: Result) -> Iterator[str]:
    """Of a cell with a number, and in numbers of its samples."""
    seen, found = result.evidence, result.outcomes
    if bool(result.checks) != (seen is not None) or (seen is not None and found is None):
        yield "evidence: with a number and with the digest of its checks, or not at all"
        return
    if seen is None or found is None:
        return
    if not is_digest(result.checks):
        yield "checks: not a digest of code"
    for fault in (
        *_attack(seen, result),
        *_gradients(seen, found),
        *_detectors(seen, result),
        *_measured(seen),
    ):
        yield f"evidence.{fault}"


def _attack(seen: Evidence, result: Result) -> Iterator[str]:
    if seen.trained != bool(result.trained):
        yield "trained: not what the record says of the attack's training"
    if seen.minimal and math.isfinite(result.cell.eps):
        yield "minimal: of an attack within a finite radius"
    if seen.drew != sorted(set(seen.drew)) or not all(name.strip() for name in seen.drew):
        yield "drew: not the names of generators, each once"


def _gradients(seen: Evidence, found: Outcomes) -> Iterator[str]:
    """Some of the attackable samples, or of those that stand; all none for attacks that take no gradients."""
    counts = {name: getattr(seen, name) for name in OF_GRADIENTS}
    if not all(0 <= count < LARGEST for count in counts.values()):
        yield "called: a number of samples that cannot be"
        return
    if seen.needs != "gradient":
        yield from (
            f"{name}: of an attack that takes no gradients" for name, count in counts.items() if count
        )
        return
    attackable = found.array("clean").any(axis=0)
    asked = int((attackable & (np.asarray(found.backward) > 0)).sum())
    if seen.differentiated < asked or (seen.differentiated > asked and not seen.trained):
        yield f"differentiated: {seen.differentiated} samples, and {asked} by their passes"
    total, standing = int(attackable.sum()), int(found.array("robust").any(axis=0).sum())
    bounds = {
        "called": total, "differentiated": total, "nan_gradients": total, "zero_gradients": standing,
        "flat_losses": standing, "tiny_gradients": seen.flat_losses, "sure_flat": seen.flat_losses,
        "sure_tiny": min(seen.tiny_gradients, seen.sure_flat),
    }  # fmt: skip
    for name, most in bounds.items():
        if counts[name] > most:
            yield f"{name}: {counts[name]} samples of {most}"


def _detectors(seen: Evidence, result: Result) -> Iterator[str]:
    outcomes, found = result.outcomes, result.detection
    if (seen.rejected is None) != (found is None):
        yield "rejected: by detectors that there are not, or none by those that there are"
    elif found is None and seen.stopped:
        yield "stopped: by no detector"
    elif found is not None and seen.rejected is not None and outcomes is not None:
        right, robust, accepted = (outcomes.array(name) for name in ("clean", "robust", "accepted"))  # type: ignore[arg-type]
        share = found.together.clean_rejected.value * right.size
        if not abs(seen.rejected - share) < 0.5 or not 0 <= seen.rejected <= int((~right).sum()):
            yield "rejected: not the share of clean images that the detectors reject"
        most = int((robust & ~accepted).sum())
        if not 0 <= seen.stopped <= most:
            yield f"stopped: {seen.stopped} examples, and {most} stand and are rejected"


def _measured(seen: Evidence) -> Iterator[str]:
    """Distances and shares, in four digits each."""
    probe, shown = seen.probe, seen.shown
    if probe != in_short(probe) or shown != in_short(shown) or not 0 <= seen.off_simplex <= 1:
        yield "probe: a number that is not in four digits"
    distances = (probe.core_varies, probe.seeds_vary, probe.repeats_vary, probe.company_matters)
    if not all(value >= 0 for value in distances) or not 0 <= probe.company_changes <= PROBED:
        yield "probe: a distance below 0, or more labels than images"
    if not (
        0 <= shown.outside <= 1 and shown.distance >= 0 and shown.spread >= 0 and abs(shown.likeness) < 1.001
    ):
        yield "shown: a share or distance that cannot be"
    if not seen.purifies and shown != Shown():
        yield "shown: by a defense that purifies nothing"

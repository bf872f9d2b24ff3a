"""What arithmetic knows of detectors: counts, intervals, curves. No torch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from robustbench_gan.nouns.detection import TOGETHER, allowed, auc_interval, share
from robustbench_gan.nouns.record import FALSE_POSITIVE_RATES, Detection, Detector, Result
from robustbench_gan.nouns.statistics import Interval
from robustbench_gan.results.arithmetic import EXACT, LARGEST, are_apart, is_interval, numbers


def detection_is(result: Result) -> Iterator[str]:
    """Counts are those of the outcomes, intervals those of their shares, and together nothing passes that one stops."""
    found, outcomes = result.detection, result.outcomes
    if found is None or outcomes is None:
        return
    accepted = outcomes.array("accepted")
    perturbed = np.broadcast_to(np.asarray(outcomes.size) > 0, accepted.shape)
    positive = int(perturbed.any(axis=0).sum())
    n = result.cell.samples
    if (found.clean, found.positive) != (n, positive) or not 0 <= found.validation < LARGEST:
        yield f"detection: of {found.clean} and {found.positive} images, and there are {n} and {positive}"
        return
    names = [one.name for one in found.detectors]
    if len(set(names)) < len(names) or found.together.name != TOGETHER:
        yield "detection: the detectors' names do not tell them apart"
    yes_or_no = len(accepted) == 1
    for one in (*found.detectors, found.together):
        yield from (f"detection of {one.name!r:.60}: {fault}" for fault in _detector(one, found, yes_or_no))
    # Bootstraps were seeded by the fingerprint before evidence was kept.
    seeds = result.fingerprint if result.evidence is None else result.cell.question
    yield from _together(found, result, share(~accepted, perturbed, f"{seeds},{TOGETHER}"))


def _detector(one: Detector, found: Detection, yes_or_no: bool) -> Iterator[str]:
    shares = [(one.clean_rejected, found.clean), *((rate, found.clean) for rate in one.fpr if rate)]
    shares += [(rate, found.positive) for rate in (one.attack_rejected, *one.tpr) if rate]
    for rate, n in shares:
        if rate.n != n or not is_interval(rate, yes_or_no):
            yield "a share whose interval is another's"
            return
    if (one.attack_rejected is None) != (found.positive == 0) or (one.auc is None) != (found.positive == 0):
        yield "figures of positives without any, or none of some"
    seen = [allowed(found.validation, rate) > 0 for rate in FALSE_POSITIVE_RATES]
    if [rate is not None for rate in one.fpr] != seen:
        yield "rates that so many validation images cannot show"
    if [rate is not None for rate in one.tpr] != [at and found.positive > 0 for at in seen]:
        yield "rates that so many images cannot show"
    for rates in (one.tpr, one.fpr):
        values = [rate.value for rate in rates if rate]
        if values != sorted(values):
            yield "a lower threshold that rejects less"
    if one.auc is not None:
        ends = (
            auc_interval(one.auc.value, found.clean, found.positive)
            if 0 <= one.auc.value <= 1
            else (2.0, 2.0)
        )
        if one.auc.n != found.positive or are_apart((one.auc.low, one.auc.high), ends):
            yield "an AUC whose interval is another's"
    yield from _curve(one, found.positive)


def _curve(one: Detector, positive: int) -> Iterator[str]:
    """Rising from (0, 0) to (1, 1), with the AUC between its lower and its upper steps."""
    curve = np.asarray(one.roc, dtype=np.float64).reshape(-1, 2)
    if (len(curve) > 0) != (positive > 0):
        yield "a curve of no positives, or none of some"
        return
    if len(curve) == 0 or one.auc is None:
        return
    right, up = np.diff(curve, axis=0).T
    ends = np.array([*curve[0], *curve[-1]])
    if (
        not np.isfinite(curve).all()
        or np.abs(ends - [0, 0, 1, 1]).max() > EXACT
        or right.min() < 0
        or up.min() < 0
    ):
        yield "a curve that does not rise from (0, 0) to (1, 1)"
        return
    low, high = float((right * curve[:-1, 1]).sum()), float((right * curve[1:, 1]).sum())
    if not low - 1e-4 <= one.auc.value <= high + 1e-4:
        yield "an AUC that its curve does not have"


def _together(found: Detection, result: Result, rejected: Interval | None) -> Iterator[str]:
    """Any detector that fires rejects; the share of rejected examples is that of the outcomes."""
    own = found.together
    if (own.attack_rejected is None) != (rejected is None) or (
        own.attack_rejected and rejected and are_apart(numbers(own.attack_rejected), numbers(rejected))
    ):
        yield "detection: the share of rejected examples is not that of the outcomes"
    for name in ("clean_rejected", "attack_rejected"):
        every = [getattr(one, name) for one in found.detectors]
        whole = getattr(own, name)
        if whole is None or None in every:
            continue
        values = [one.value for one in every]
        if not max(values) - EXACT <= whole.value <= sum(values) + EXACT:
            yield f"detection: {name} together is not what any of the detectors makes it"
    if own.clean_rejected.value > 1 - result.controls.get("defended", 0.0) + EXACT:
        yield "detection: more clean images are rejected than are wrong"

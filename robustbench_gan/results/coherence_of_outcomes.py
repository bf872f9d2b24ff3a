"""What arithmetic knows of outcomes and of the accuracies, sizes and shares that follow from them. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from robustbench_gan.nouns.record import SLACK, Outcomes, Result
from robustbench_gan.results.arithmetic import EXACT, LARGEST, ROUNDING, first_set, is_sane, is_whole, near

DISTORTIONS: Final = ("l0", "l2", "linf")


def outcomes_are(result: Result) -> Iterator[str]:
    """Robust only where clean, lost only where accepted, and every size one that the judge lets pass."""
    found = result.outcomes
    if found is None:
        return
    clean, accepted, robust = (found.array(name) for name in ("clean", "accepted", "robust"))  # type: ignore[arg-type]
    if place := first_set(robust & ~clean):
        yield f"outcomes: {place} is robust and was not right unperturbed"
    if place := first_set(clean & ~robust & ~accepted):
        yield f"outcomes: {place} is lost by an example that was rejected"
    if result.detection is None and not accepted.all():
        yield "outcomes: an example is rejected by a defense without detectors"
    if not all(0 <= count < LARGEST for count in (*found.forward, *found.backward)):
        yield "outcomes: a number of passes that cannot be"
    yield from _sizes(found, result.cell.norm, result.cell.eps)


def _sizes(found: Outcomes, norm: str, eps: float) -> Iterator[str]:
    size = np.asarray(found.size, dtype=np.float64)
    if not (np.isfinite(size) & (size >= 0)).all():
        yield "outcomes: a size that is not 0 or more"
        return
    if norm == "l0" and not (size == np.round(size)).all():
        yield "outcomes: a size in l0 that is no whole number"
    most = min(eps, 1.0) if norm == "linf" else eps
    if not (size <= most * (1 + SLACK + ROUNDING) + SLACK + ROUNDING).all():
        yield f"outcomes: a size of {size.max():g} in a budget of {norm} {most:g}"


def accuracies_are(result: Result) -> Iterator[str]:
    """Clean accuracy is that of the bits; that on the examples lies between the robust bits and what they allow.

    Untargeted, an accepted example of an image that is right unperturbed is right exactly where it is robust; with a
    target it may be wrong and robust. One that is not accepted is wrong, and what was wrong unperturbed may be either.
    """
    found = result.outcomes
    if found is None:
        return
    clean, accepted, robust = (found.array(name) for name in ("clean", "accepted", "robust"))  # type: ignore[arg-type]
    sets, (seeds, n) = len(found.size), clean.shape
    for name in ("controls", "attacked"):
        values: Mapping[str, float] = getattr(result, name)
        if not {"classifier", "defended"} <= set(values):
            yield f"{name}: those of classifier and defended system are missing"
            return
        if not all(0 <= value <= 1 for value in values.values()):
            yield f"{name}: an accuracy outside [0, 1]"
    if set(result.attacked) != {"classifier", "defended"}:
        yield "attacked: of more than classifier and defended system"
    if abs(result.controls["defended"] - clean.mean()) > EXACT:
        yield f"controls.defended: {result.controls['defended']:g}, and {clean.mean():g} of the clean bits are set"
    shares = (
        ("controls.classifier", result.controls["classifier"], n),
        ("attacked.classifier", result.attacked["classifier"], sets * n),
    )
    yield from (f"{name}: no share of {of} answers" for name, value, of in shares if not is_whole(value * of))
    right = result.attacked["defended"] * seeds * n
    least = int((robust & accepted).sum()) if result.cell.goal == "untargeted" else 0
    most = int((accepted & (robust | ~clean)).sum())
    if not is_whole(right) or not least - 0.5 < right < most + 0.5:
        yield f"attacked.defended: {right:g} right answers, and the outcomes allow {least} to {most}"


def distortion_is(result: Result) -> Iterator[str]:
    """Of the examples that won: mean, median and largest in the cell's norm are those of the sizes."""
    found = result.outcomes
    if found is None:
        return
    won = found.array("clean") & ~found.array("robust")
    rows = won if len(found.size) > 1 else won.any(axis=0, keepdims=True)
    sizes = np.asarray(found.size, dtype=np.float64)[rows]
    if set(result.distortion) != (set(DISTORTIONS) if len(sizes) else set()):
        yield f"distortion: of {', '.join(result.distortion) or 'nothing'}, and {len(sizes)} examples won"
        return
    for norm, spread in result.distortion.items():
        values = (spread.mean, spread.median, spread.max)
        if not all(map(is_sane, values)) or max(spread.mean, spread.median) > spread.max + near(spread.max):
            yield f"distortion.{norm}: no spread of sizes"
            return
        if norm == result.cell.norm:
            own = (sizes.mean(), float(np.median(sizes)), sizes.max())
            if any(abs(a - b) > near(b) for a, b in zip(values, own, strict=True)):
                yield f"distortion.{norm}: not that of the sizes"
    if len(sizes):
        l0, l2, linf = (result.distortion[norm] for norm in DISTORTIONS)
        if linf.max > 1 + SLACK + ROUNDING or any(
            getattr(linf, name) > getattr(l2, name) + near(getattr(l2, name))
            for name in ("mean", "median", "max")
        ):
            yield "distortion: linf above 1 or above l2"
        bound = math.sqrt(l0.max) * linf.max
        if l2.max > bound + near(bound) or l0.max != round(l0.max):
            yield "distortion: l2 above what so many values can make"


def gradients_are(result: Result) -> Iterator[str]:
    """Shares of the same images, of which there are no more than samples: always zero is once zero as well."""
    shares = result.zero_gradients
    if not shares:
        return
    if set(shares) != {"always", "once"} or not 0 <= shares["always"] <= shares["once"] <= 1:
        yield "zero_gradients: not two shares, always and once"
        return
    asked = result.cell.samples if result.outcomes is None else sum(b > 0 for b in result.outcomes.backward)
    images = np.arange(1, asked + 1)
    counts = np.stack([images * shares[name] for name in ("always", "once")])
    if not (np.abs(counts - np.round(counts)) < 1e-6).all(axis=0).any():
        yield f"zero_gradients: no shares of up to {asked} images"

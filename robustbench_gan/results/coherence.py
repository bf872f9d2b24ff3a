"""What arithmetic knows of a record: whatever one part of it says of another must be so. No torch.

A record that was edited by hand, or made by a faulty program, contradicts itself somewhere: an image that is robust
without having been right, an accuracy that its bits do not have, an interval that is another number's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from robustbench_gan.base.errors import UsageError
from robustbench_gan.flags.catalogue import CATALOGUE
from robustbench_gan.nouns.detection import TOGETHER, allowed, auc_interval, share
from robustbench_gan.nouns.record import (
    FALSE_POSITIVE_RATES,
    SLACK,
    Detection,
    Detector,
    Interval,
    Outcomes,
    Result,
    interval,
)
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.results.places import place

ROUNDING: Final = 1e-6  # of sums in float32, and of sizes in records of schema 1, relative and absolute
EXACT: Final = 1e-9  # of means in float64
LARGEST: Final = 2**53  # of counts
DISTORTIONS: Final = ("l0", "l2", "linf")
GRADIENTS: Final = ("full", "bpda", "truncated", "cut")
Bools = np.ndarray[Any, np.dtype[np.bool_]]


def incoherence(result: Result) -> Iterator[str]:
    """Each thing in a record that cannot be, in words; none where all that arithmetic knows holds."""
    for check in CHECKS:
        yield from check(result)


class Incoherent(RuntimeError):
    """What was measured contradicts itself, so that none of it can be believed."""


def coherent(result: Result) -> Result:
    """The result, of which all that arithmetic knows holds. Raises Incoherent with the first thing that does not."""
    if fault := next(incoherence(result), ""):
        raise Incoherent(f"the record contradicts itself: {fault}")
    return result


def _status(result: Result) -> Iterator[str]:
    """A result is suspect exactly where a flag makes it so, and its reason names the flags."""
    invalid = [flag.id for flag in result.flags if flag.severity == "invalid"]
    if result.outcomes is None:
        if result.status in ("ok", "suspect"):
            yield f"status: {result.status!r} without outcomes"
        return
    if result.status not in ("ok", "suspect"):
        yield f"outcomes: a result that is {result.status!r} has none"
    if (result.status == "suspect") != bool(invalid):
        yield f"status: {result.status!r} with {len(invalid)} invalid flags; suspect is what has some"
    if result.reason != "; ".join(invalid):
        yield "reason: not the ids of the invalid flags"


def _flags(result: Result) -> Iterator[str]:
    for flag in result.flags:
        entry = CATALOGUE.get(flag.id)
        if entry is None:
            yield f"flags: {flag.id!r:.60} is no flag of this version"
        elif flag.severity not in entry.severities:
            yield f"flags: {flag.id} is never {flag.severity}"
        elif flag.message != entry.summary:
            yield f"flags: the message of {flag.id} is not the catalogue's"
    ids = [flag.id for flag in result.flags]
    if len(set(ids)) < len(ids):
        yield "flags: one is raised twice"


def _absent(result: Result) -> Iterator[str]:
    """What only a judged cell can say, and what only a failed one can."""
    if result.status != "failed" and result.traceback:
        yield f"traceback: a result that is {result.status!r} has none"
    if result.outcomes is None:
        facts = (
            "detection", "controls", "attacked", "distortion", "zero_gradients", "substitute", "trained", "queries",
            "attacked_copy", "gradients", "adversarial", "weights",
        )  # fmt: skip
        yield from (
            f"{name}: a result that is {result.status!r} has none" for name in facts if getattr(result, name)
        )


def _kept(result: Result) -> Iterator[str]:
    """The examples lie beside the record, nowhere else."""
    if result.adversarial is None:
        return
    try:
        own = place(result.cell).with_suffix(".safetensors").name
    except UsageError:
        own = ""
    if result.adversarial.file != own:
        yield "adversarial.file: not the name of the record with the ending .safetensors"


def _measured(result: Result) -> Iterator[str]:
    """What a clock and the memory gave."""
    times = {**result.seconds.model_dump(), "peak_memory_mb": result.peak_memory_mb}
    times |= {} if result.estimate_seconds is None else {"estimate_seconds": result.estimate_seconds}
    yield from (f"{name}: {value} is no time or size" for name, value in times.items() if not _sane(value))


def _texts(result: Result) -> Iterator[str]:
    """Facts of the machine and the versions: names and values, none empty."""
    for name in ("hardware", "versions", "weights", "precision"):
        facts: Mapping[str, str] = getattr(result, name)
        if not all(key.strip() and value.strip() for key, value in facts.items()):
            yield f"{name}: an empty text"
    if not all(_is_digest(text) for text in result.weights.values()):
        yield "weights: not the digest of weights"
    if result.outcomes is not None and result.weights and "classifier" not in result.weights:
        yield "weights: those of the classifier are missing"


def _question(result: Result) -> Iterator[str]:
    """The cell itself, and what its threat model allows to be said."""
    cell = result.cell
    if cell.norm == "linf" and 1 < cell.eps < math.inf:
        yield f"cell.eps: {cell.eps:g} in linf is more than all of [0, 1]"
    if not all(abs(number) < LARGEST for number in (cell.seed, cell.first, cell.samples, cell.judge_seeds)):
        yield "cell: a number that is too large"
    if result.budgets != sorted(set(result.budgets)) or not all(map(_sane, result.budgets)):
        yield "budgets: not rising radii"
    if result.budgets and math.isfinite(cell.eps):
        yield "budgets: of a cell that has one radius"
    name, judged = cell.threat_name, result.outcomes is not None
    differentiates = name in ("white-box", "seed-known", "gray-box:copy")
    if judged and bool(result.gradients) != differentiates:
        yield f"gradients: {len(result.gradients)} under {name}"
    if len(set(result.gradients)) < len(result.gradients) or not set(result.gradients) <= set(GRADIENTS):
        yield "gradients: not those that an attack is run with"
    if result.substitute and name != "black-box":
        yield f"substitute: of an attacker who is {name}"
    if judged and bool(result.queries) != (name == "query"):
        yield f"queries: of an attacker who is {name}"
    if judged and bool(result.attacked_copy) != (name == "gray-box:copy"):
        yield f"attacked_copy: of an attacker who is {name}"


def _outcomes(result: Result) -> Iterator[str]:
    """Robust only where clean, lost only where accepted, and every size one that the judge lets pass."""
    found = result.outcomes
    if found is None:
        return
    clean, accepted, robust = (found.array(name) for name in ("clean", "accepted", "robust"))  # type: ignore[arg-type]
    if place := _first(robust & ~clean):
        yield f"outcomes: {place} is robust and was not right unperturbed"
    if place := _first(clean & ~robust & ~accepted):
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


def _accuracies(result: Result) -> Iterator[str]:
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
    yield from (f"{name}: no share of {of} answers" for name, value, of in shares if not _whole(value * of))
    right = result.attacked["defended"] * seeds * n
    least = int((robust & accepted).sum()) if result.cell.goal == "untargeted" else 0
    most = int((accepted & (robust | ~clean)).sum())
    if not _whole(right) or not least - 0.5 < right < most + 0.5:
        yield f"attacked.defended: {right:g} right answers, and the outcomes allow {least} to {most}"


def _distortion(result: Result) -> Iterator[str]:
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
        if not all(map(_sane, values)) or max(spread.mean, spread.median) > spread.max + _near(spread.max):
            yield f"distortion.{norm}: no spread of sizes"
            return
        if norm == result.cell.norm:
            own = (sizes.mean(), float(np.median(sizes)), sizes.max())
            if any(abs(a - b) > _near(b) for a, b in zip(values, own, strict=True)):
                yield f"distortion.{norm}: not that of the sizes"
    if len(sizes):
        l0, l2, linf = (result.distortion[norm] for norm in DISTORTIONS)
        if linf.max > 1 + SLACK + ROUNDING or any(
            getattr(linf, name) > getattr(l2, name) + _near(getattr(l2, name))
            for name in ("mean", "median", "max")
        ):
            yield "distortion: linf above 1 or above l2"
        bound = math.sqrt(l0.max) * linf.max
        if l2.max > bound + _near(bound) or l0.max != round(l0.max):
            yield "distortion: l2 above what so many values can make"


def _gradients(result: Result) -> Iterator[str]:
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


def _attackers(result: Result) -> Iterator[str]:
    """What substitutes, copies and query attackers are said to have done."""
    n, spec = result.cell.samples, _parameters(result.cell.threat)
    for name in ("substitute", "attacked_copy", "trained", "queries"):
        facts: Mapping[str, Any] = getattr(result, name)
        numbers = {key: value for key, value in facts.items() if not isinstance(value, str)}
        if not all(_sane(value) for value in numbers.values()):
            yield f"{name}: a number that is not 0 or more"
            return
        for key in {"accuracy", "agreement"} & set(facts):
            if not isinstance(facts[key], float) or not facts[key] <= 1:
                yield f"{name}.{key}: no share"
            elif name == "attacked_copy" and not _whole(facts[key] * n):
                yield f"{name}.{key}: no share of {n} images"
    for key, own in (
        ("protocol", "substitute"),
        ("model", "model"),
        ("oracle", "oracle"),
        ("answers", "answers"),
    ):
        said, asked = result.substitute.get(key), spec.get(own)
        if said is not None and asked is not None and str(said) != str(asked):
            yield f"substitute.{key}: {said!r:.40}, and the threat model says {asked!r:.40}"
    yield from _made(result)
    yield from _queries(result, spec)


def _made(result: Result) -> Iterator[str]:
    """Of whatever the attacker is said to have trained, the weights are named."""
    named = result.weights
    if result.outcomes is None or not named:
        return
    if bool(result.trained) != any(name.partition(".")[0] == "attack" for name in named):
        yield "trained: not what the weights say of the attack"
    own = bool(result.substitute) and result.substitute.get("protocol") != "dynamic"
    if own != ("substitute" in named):
        yield "substitute: not what the weights say of it"
    parts = sum(name.startswith("copy.") for name in named)
    if result.attacked_copy.get("parts", 0) != parts:
        yield f"attacked_copy: not of the {parts} parts whose weights are named"


def _queries(result: Result, spec: Mapping[str, Any]) -> Iterator[str]:
    asked, found = result.queries, result.outcomes
    if not asked or found is None:
        return
    forward = np.asarray(found.forward, dtype=np.float64)
    own = {"median": float(np.median(forward)), "max": forward.max(), "total": forward.sum()}
    own |= {"limit": spec["limit"]} if "limit" in spec else {}
    if any(key not in asked or asked[key] != value for key, value in own.items()):
        yield "queries: not those of the passes, or not the threat model's limit"
    if spec.get("access", asked.get("answers")) != asked.get("answers"):
        yield "queries.answers: not what the threat model grants"
    if own.get("limit") and own["max"] > own["limit"]:
        yield f"queries: {own['max']:g} of an image, above the limit of {own['limit']}"
    if any(found.backward):
        yield "outcomes: gradients of an attacker who has queries alone"


def _detection(result: Result) -> Iterator[str]:
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
    yield from _together(found, result, share(~accepted, perturbed, f"{result.fingerprint},{TOGETHER}"))


def _detector(one: Detector, found: Detection, yes_or_no: bool) -> Iterator[str]:
    shares = [(one.clean_rejected, found.clean), *((rate, found.clean) for rate in one.fpr if rate)]
    shares += [(rate, found.positive) for rate in (one.attack_rejected, *one.tpr) if rate]
    for rate, n in shares:
        if rate.n != n or not _is_interval(rate, yes_or_no):
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
        if one.auc.n != found.positive or _apart((one.auc.low, one.auc.high), ends):
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
        own.attack_rejected and rejected and _apart(_numbers(own.attack_rejected), _numbers(rejected))
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


def _is_interval(found: Interval, yes_or_no: bool) -> bool:
    """Is this the interval of a share of n images? One that was bootstrapped can only be bracketed."""
    low, value, high = found.low, found.value, found.high
    if (
        not 0 <= low <= value + EXACT
        or not value - EXACT <= high <= 1 + EXACT
        or not 0 <= value <= 1
        or found.n < 1
    ):
        return False
    if not yes_or_no:
        return True
    count = round(value * found.n)
    wilson = interval([1.0] * count + [0.0] * (found.n - count), "")
    return not _apart(_numbers(found), _numbers(wilson))


def _numbers(found: Interval) -> tuple[float, ...]:
    return found.value, found.low, found.high


def _apart(some: Iterable[float], others: Iterable[float]) -> bool:
    return not all(abs(a - b) <= ROUNDING for a, b in zip(some, others, strict=True))


def _first(wrong: Bools) -> str:
    """Where the first of some bits (K, N) is set, empty where none is."""
    return f"image {int(wrong.any(axis=0).argmax())} of the cell" if wrong.any() else ""


def _sane(value: float) -> bool:
    return 0 <= value < math.inf


def _near(value: float) -> float:
    return ROUNDING + 2 * ROUNDING * abs(value)


def _whole(count: float) -> bool:
    return abs(count - round(count)) <= 1e-6 * max(1.0, count)


def _is_digest(text: str) -> bool:
    return 8 <= len(text) <= 64 and set(text) <= set("0123456789abcdef")


def _parameters(threat: str) -> Mapping[str, Any]:
    try:
        return dict(Spec.of(threat).params)
    except UsageError:
        return {}


CHECKS: Final[tuple[Callable[[Result], Iterator[str]], ...]] = (
    _status, _flags, _absent, _kept, _measured, _texts, _question, _outcomes, _accuracies, _distortion, _gradients,
    _attackers, _detection,
)  # fmt: skip

"""Flat rows of results, as `rbg evaluate --json` prints them, and outcomes at any budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from robustbench_gan.base.errors import UsageError
from robustbench_gan.leaderboard.questions import order
from robustbench_gan.nouns.record import FALSE_POSITIVE_RATES, Outcomes, Result, finite
from robustbench_gan.nouns.statistics import Interval, interval

if TYPE_CHECKING:
    from robustbench_gan.flags.across import Findings

RAN = ("ok", "suspect", "failed")
Row = dict[str, Any]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


def measured(result: Result) -> Outcomes | None:
    """The outcomes of a result that has a number to show: an ok one or a suspect one."""
    return result.outcomes if result.status in ("ok", "suspect") else None


def at_budget(result: Result, eps: float) -> Bools:
    """Per-sample robust outcomes at a radius, (K, N) bool. Raises UsageError for a result without outcomes.

    At the cell's own radius the judge has decided, and no size is looked at again.
    """
    outcomes = measured(result)
    if outcomes is None:
        raise UsageError(f"result {result.fingerprint[:12]} is {result.status}: it has no outcomes.")
    return outcomes.array("robust") if eps == result.cell.eps else outcomes.robust_at(eps)


def robust_interval(result: Result, eps: float) -> Interval | None:
    """Robust accuracy at a radius with its 95% interval; None where there is no number."""
    if measured(result) is None:
        return None
    return interval(at_budget(result, eps).mean(axis=0), result.cell.question)


def median_size(result: Result) -> float | None:
    """The median perturbation with which the attack won; None where it never did."""
    outcomes = measured(result)
    if outcomes is None:
        return None
    won = outcomes.array("clean") & ~outcomes.array("robust")
    sizes = np.broadcast_to(np.asarray(outcomes.size, dtype=np.float64), won.shape)[won]
    return float(np.median(sizes)) if len(sizes) else None


def clean_interval(result: Result) -> Interval | None:
    """Clean accuracy with its 95% interval; None where there is no number."""
    return result.accuracy("clean") if measured(result) else None


def flag_ids(result: Result, findings: Findings | None = None) -> list[str]:
    """The ids of a cell's own flags, then of those that the run's other cells raise against it."""
    return [flag.id for flag in (*result.flags, *(findings.of(result) if findings else ()))]


def rows(results: Iterable[Result], at: Sequence[float] = (), findings: Findings | None = None) -> list[Row]:
    """One flat JSON-safe dict a result, sorted; a minimal-norm one has one more for each finite eps asked for.

    `at` asks for more of these. Accuracies are in [0, 1], times in seconds. What does not exist is None, an infinite
    eps the text "inf"; only a row whose status is "ok" may be ranked. Median sizes are of examples that won, no keys
    where none did. A defense with detectors has further keys: AUC, true positive rates and shares rejected, of all
    its detectors together; so has a black-box attacker's substitute, a query attacker (queries an image) and a copy
    attacked in the defense's place. `findings` add the flags across cells.
    """
    flat = []
    for result in sorted(results, key=order):
        flat.append(_row(result, result.cell.eps, flags := flag_ids(result, findings)))
        if math.isinf(result.cell.eps):
            radii = sorted({*at, *result.budgets})
            flat.extend(_row(result, eps, flags) for eps in radii if math.isfinite(eps))
    return flat


def _row(result: Result, eps: float, flags: list[str]) -> Row:
    cell = result.cell
    row: Row = {name: str(getattr(cell, name)) for name in ("dataset", "classifier", "defense", "attack")}
    row |= {"goal": cell.goal, "threat": str(cell.threat), "norm": cell.norm}
    row |= {"eps": eps if math.isfinite(eps) else "inf", "n": cell.samples, "first": cell.first}
    row |= {"seed": cell.seed, "judge_seeds": cell.judge_seeds, "control": result.control}
    row |= _accuracy("clean_accuracy", "clean_ci", clean_interval(result))
    row |= _accuracy("robust_accuracy", "ci", robust_interval(result, eps))
    row |= {"status": result.status, "reason": result.reason, "flags": flags}
    row |= {**_examples(result), **_detection(result)} if eps == cell.eps else {}  # of examples of every size
    row |= _attacker(result)
    return row | cost(result) | {"fingerprint": result.fingerprint}


def _examples(result: Result) -> Row:
    """What the examples do to the classifier alone, how far they are where they won, and what gradients they had."""
    sizes = {f"median_{norm}": spread.median for norm, spread in result.distortion.items()}
    shares = {"zero_gradient_share": result.zero_gradients.get("always")}
    return {"classifier_accuracy_on_examples": result.attacked.get("classifier"), **sizes, **shares}


def _detection(result: Result) -> Row:
    """All detectors together; no keys where there are none."""
    if result.detection is None or measured(result) is None:
        return {}
    found = result.detection.together
    tpr = {f"tpr_at_fpr_{rate:g}": at for rate, at in zip(FALSE_POSITIVE_RATES, found.tpr, strict=True)}
    fpr = {f"fpr_reached_{rate:g}": at for rate, at in zip(FALSE_POSITIVE_RATES, found.fpr, strict=True)}
    shares = {**tpr, **fpr, "clean_rejected": found.clean_rejected, "attack_rejected": found.attack_rejected}
    plain = {name: None if share is None else share.value for name, share in shares.items()}
    return _accuracy("auc", "auc_ci", found.auc) | plain


def _attacker(result: Result) -> Row:
    """What the attacker made or asked: substitute, queries and copy; only the keys of what there is."""
    if measured(result) is None:
        return {}
    made = {"substitute": result.substitute, "queries": result.queries, "copy": result.attacked_copy}
    return {
        f"{kind}_{name}": facts[name]
        for kind, facts in made.items()
        for name in ("images", "queries", "limit", "median", "max", "accuracy", "agreement", "seed")
        if name in facts
    }


def _accuracy(name: str, ci: str, value: Interval | None) -> Row:
    if value is None:
        return dict.fromkeys((name, f"{ci}_low", f"{ci}_high"))
    return {name: value.value, f"{ci}_low": value.low, f"{ci}_high": value.high}


def cost(result: Result) -> dict[str, float | None]:
    """What a cell cost: seconds and passes an image, seconds of training, and the estimate before the run."""
    outcomes, ran = measured(result), result.status in RAN
    estimate = result.estimate_seconds
    return {
        "craft_seconds_per_image": finite(result.craft_seconds_per_image) if outcomes else None,
        "defense_seconds_per_image": finite(result.defense_seconds_per_image) if outcomes else None,
        "forward_passes_per_image": float(np.mean(outcomes.forward)) if outcomes else None,
        "backward_passes_per_image": float(np.mean(outcomes.backward)) if outcomes else None,
        "training_seconds": finite(result.seconds.training) if ran else None,
        "estimate_seconds": None if estimate is None else finite(estimate),
    }

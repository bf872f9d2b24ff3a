"""What arithmetic knows of a record: whatever one part of it says of another must be so. No torch.

A record that was edited by hand, or made by a faulty program, contradicts itself somewhere: an image that is robust
without having been right, an accuracy that its bits do not have, an interval that is another number's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from robustbench_gan.base.errors import UsageError
from robustbench_gan.flags.catalogue import CATALOGUE
from robustbench_gan.flags.identity import checks_digest
from robustbench_gan.nouns.record import Result
from robustbench_gan.results.arithmetic import LARGEST, is_digest, is_sane
from robustbench_gan.results.coherence_of_attackers import attackers_are
from robustbench_gan.results.coherence_of_detection import detection_is
from robustbench_gan.results.coherence_of_evidence import evidence_is
from robustbench_gan.results.coherence_of_outcomes import (
    accuracies_are,
    distortion_is,
    gradients_are,
    outcomes_are,
)
from robustbench_gan.results.places import place

GRADIENTS: Final = ("full", "bpda", "truncated", "cut")


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
    """Flags of the catalogue, each once. Those that other checks derived are as their catalogue had them."""
    for flag in result.flags if result.checks in ("", checks_digest()) else ():
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
    yield from (f"{name}: {value} is no time or size" for name, value in times.items() if not is_sane(value))


def _texts(result: Result) -> Iterator[str]:
    """Facts of the machine and the versions: names and values, none empty."""
    for name in ("hardware", "versions", "weights", "precision"):
        facts: Mapping[str, str] = getattr(result, name)
        if not all(key.strip() and value.strip() for key, value in facts.items()):
            yield f"{name}: an empty text"
    if not all(is_digest(text) for text in result.weights.values()):
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
    if result.budgets != sorted(set(result.budgets)) or not all(map(is_sane, result.budgets)):
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


CHECKS: Final[tuple[Callable[[Result], Iterator[str]], ...]] = (
    _status, _flags, _absent, _kept, _measured, _texts, _question, outcomes_are, accuracies_are, distortion_is,
    gradients_are, attackers_are, detection_is, evidence_is,
)  # fmt: skip

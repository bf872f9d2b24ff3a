"""The red flags of one cell, derived from what its record holds, in the run that wrote it and ever after. No torch.

`catalogue` says what each one means. A change of what `identity` names derives flags anew, and runs no cell again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_gan.base.errors import UsageError
from robustbench_gan.flags import thresholds as at
from robustbench_gan.flags.catalogue import flag
from robustbench_gan.flags.counting import SAME_ANSWER
from robustbench_gan.flags.identity import checks_digest
from robustbench_gan.flags.question import Question
from robustbench_gan.nouns.evidence import PROBED, Evidence
from robustbench_gan.nouns.flag import Flag, Severity
from robustbench_gan.nouns.record import Result


@dataclass(frozen=True)
class Judged:
    """What else a record says of a cell with a number, of N samples under K judge seeds.

    `right` and `robust` are (K, N) bool: right unperturbed; that and not won. `sizes` is (K or 1, N) float32, and
    `controls` holds the clean accuracies of classifier and defended system.
    """

    right: NDArray[np.bool_]
    robust: NDArray[np.bool_]
    sizes: NDArray[np.float32]
    gradients: Sequence[str]
    controls: Mapping[str, float]
    agreement: float | None = None

    @classmethod
    def of(cls, result: Result) -> Judged:
        """What a record with outcomes says."""
        found, agreement = result.outcomes, result.substitute.get("agreement")
        assert found is not None
        sizes = np.asarray(found.size, dtype=np.float32)
        told = None if agreement is None else float(agreement)
        right, robust = found.array("clean"), found.array("robust")
        return cls(right, robust, sizes, result.gradients, result.controls, told)

    @property
    def seeds(self) -> int:
        """Of the judge, K."""
        return len(self.right)

    @property
    def samples(self) -> int:
        """N."""
        return int(self.right.shape[1])

    @cached_property
    def attackable(self) -> NDArray[np.bool_]:
        """(N,) bool: right unperturbed under some seed; only these can be lost."""
        return np.asarray(self.right.any(axis=0))


def with_flags(result: Result) -> Result:
    """The record with the flags that its evidence gives rise to, and the status and reason that these imply."""
    assert result.evidence is not None
    flags = red_flags(Question.of(result.cell), result.evidence, Judged.of(result))
    invalid = [one.id for one in flags if one.severity == "invalid"]
    derived = {"flags": flags, "status": "suspect" if invalid else "ok", "reason": "; ".join(invalid)}
    return result.model_copy(update={**derived, "checks": checks_digest()})


def contradiction(result: Result) -> str:
    """How the flags of a record differ from what its evidence raises by the checks it names; empty where they do not.

    Nobody here can tell of other checks, nor of a record without evidence.
    """
    if result.evidence is None or result.checks != checks_digest():
        return ""
    try:
        raised = with_flags(result).flags
    except (UsageError, TypeError, ValueError):  # the texts of a stranger's record may be anything
        return "cell: parameters that no attack or threat model has"
    return "" if raised == result.flags else "flags: not those that the evidence raises"


def red_flags(question: Question, seen: Evidence, judged: Judged) -> list[Flag]:
    """Every flag that the evidence raises; one of severity `invalid` makes the result suspect."""
    raised = [
        *_gradient_flags(question, seen, judged), *_size_flags(question, seen, judged),
        *_answer_flags(question, seen, judged), *_randomness_flags(question, seen, judged),
        *_attack_randomness_flags(seen), *_purifier_flags(seen, judged), *_detector_flags(question, seen, judged),
        *_strength_flags(question, seen, judged), *parameter_flags(question, seen),
    ]  # fmt: skip
    if judged.agreement is not None and judged.agreement < at.AGREEMENT:
        raised.append(flag("weak-substitute", agreement=round(judged.agreement, 4)))
    return raised


def _gradient_flags(question: Question, seen: Evidence, judged: Judged) -> Iterator[Flag]:
    """What the attack was given by way of gradients. A sample that fell to a random start needed none."""
    if "cut" in judged.gradients:
        yield flag("cut-gradient")
    total = int(judged.attackable.sum())
    if seen.needs != "gradient" or not total:
        return
    if question.white and not seen.called:
        yield flag("defense-not-attacked")
        return
    if not seen.differentiated:
        yield flag("no-backward")
        return
    many = at.ZERO_GRADIENT_SHARE * total
    if zero := seen.zero_gradients:
        yield flag("zero-gradient", "invalid" if zero > many else "note", samples=zero, of=total)
    if broken := seen.nan_gradients:
        yield flag("not-a-number", "invalid" if broken > many else "warning", samples=broken, of=total)
    least = at.SATURATED_SHARE * total
    if seen.sure_tiny > least:
        yield flag("saturated-loss", "warning", samples=seen.sure_tiny, of=total)
    elif seen.sure_flat > least:
        yield flag("saturated-loss", "note", samples=seen.sure_flat, of=total)


def _size_flags(question: Question, seen: Evidence, judged: Judged) -> Iterator[Flag]:
    if question.eps == 0 or not judged.attackable.any():
        return
    sizes = judged.sizes[:, judged.attackable]
    if not (sizes > 0).any():
        yield flag("no-perturbation", "invalid", changed=0)
        return
    if question.norm != "linf" or seen.minimal:
        return
    used = float(sizes.mean(dtype=np.float64)) / question.eps
    if used < at.MOVED_SHARE:
        yield flag("no-perturbation", "warning", mean_share_of_eps=round(used, 4))


def _answer_flags(question: Question, seen: Evidence, judged: Judged) -> Iterator[Flag]:
    """Softmax outputs in the place of logits."""
    if seen.off_simplex < at.PROBABILITY_SLACK:
        climbed = seen.needs == "gradient" and (question.white or question.threat == "gray-box")
        severity: Severity = "invalid" if climbed else "warning"
        yield flag("probabilities-as-logits", severity, images=judged.samples)


def _randomness_flags(question: Question, seen: Evidence, judged: Judged) -> Iterator[Flag]:
    probe = seen.probe
    if probe.company_matters > SAME_ANSWER:
        changed, far = probe.company_changes, probe.company_matters
        yield flag("batch-dependent", labels_changed=changed, of=PROBED, distance=far)
    if probe.core_varies > SAME_ANSWER:
        yield flag("always-on-dropout", distance=probe.core_varies)
        return  # it explains whatever else changes
    if probe.repeats_vary > SAME_ANSWER and not probe.own_randomness:
        severity: Severity = "invalid" if probe.label_changed else "warning"
        yield flag("stateful-defense", severity, distance=probe.repeats_vary)
    elif probe.repeats_vary > SAME_ANSWER:
        yield flag("undeclared-randomness", distance=probe.repeats_vary, under="the same seed")
    elif not seen.randomised:
        changed = int((judged.right != judged.right[0]).any(axis=0).sum()) if judged.seeds > 1 else 0
        if changed or probe.seeds_vary > SAME_ANSWER:
            yield flag("undeclared-randomness", samples=changed, distance=probe.seeds_vary)
    if seen.randomised and judged.seeds < at.JUDGE_SEEDS:
        yield flag("single-seed", "warning" if judged.seeds == 1 else "note", seeds=judged.seeds)
    aims = seen.needs == "gradient" and not seen.trained
    if seen.randomised and question.threat == "white-box" and question.draws == 1 and aims:
        yield flag("no-eot", draws=question.draws)


def _attack_randomness_flags(seen: Evidence) -> Iterator[Flag]:
    """What the attack's seeds do not govern, unless the system is known to answer otherwise under the same seeds."""
    if seen.probe.core_varies > SAME_ANSWER or seen.probe.repeats_vary > 0:
        return
    if not seen.repeats:
        yield flag("irreproducible-attack")
    if seen.drew:
        yield flag("global-generator", drew=", ".join(seen.drew))


def _purifier_flags(seen: Evidence, judged: Judged) -> Iterator[Flag]:
    shown = seen.shown
    if seen.unrolls or seen.probe.differentiates:
        yield flag("inference-time-optimisation", declared=str(seen.unrolls).lower())
    if not seen.purifies:
        return
    if shown.outside > at.OUTSIDE_SHARE:
        yield flag("range-mismatch", share=shown.outside)
    alone, defended = judged.controls["classifier"], judged.controls["defended"]
    facts = {"classifier": round(alone, 4), "defended": round(defended, 4)}
    if shown.distance > at.DESTROYED and alone - defended > at.COLLAPSE:
        yield flag("misconfigured-purifier", **facts, distance=shown.distance)
    if shown.spread < at.ALL_ALIKE:
        yield flag("image-discarded", "invalid", spread=shown.spread)
    elif abs(shown.likeness) < at.UNLIKE and judged.samples >= at.LIKENESS_IMAGES:
        yield flag("image-discarded", "warning", likeness=shown.likeness)
    if defended - alone > at.tolerance(alone, judged.samples):
        yield flag("reconstructions-beat-originals", **facts)


def _detector_flags(question: Question, seen: Evidence, judged: Judged) -> Iterator[Flag]:
    if seen.rejected is None:
        return
    rejected = seen.rejected / (judged.seeds * judged.samples)
    if rejected > at.CLEAN_REJECTED:
        yield flag("rejects-clean-images", share=round(rejected, 4))
    standing = int(judged.robust.sum())
    if question.holds_defense and seen.needs == "gradient" and seen.stopped > at.STOPPED_SHARE * standing:
        yield flag("detector-not-attacked", stopped=seen.stopped, of=standing)


def _strength_flags(q: Question, seen: Evidence, judged: Judged) -> Iterator[Flag]:
    """What stands in a ball where nothing can."""
    if not (q.norm == "linf" and at.HALF <= q.eps < math.inf and q.white and not q.targeted):
        return
    if seen.needs != "gradient" or seen.minimal or seen.trained:
        return
    accuracy, chance = float(judged.robust.mean()), 1 / seen.classes
    if accuracy > chance + max(at.ABOVE_CHANCE, at.tolerance(chance, judged.samples)):
        steps: Any = q.parameters.get("steps", 1)
        severity: Severity = "invalid" if steps > 1 else "warning"
        yield flag("robust-at-half", severity, accuracy=round(accuracy, 4), chance=round(chance, 4))


def parameter_flags(q: Question, seen: Evidence) -> list[Flag]:
    """What the parameters of an attack that can be run say."""
    faults = _weaknesses(q, seen)
    return [flag("weak-hyper-parameters", **faults)] if faults else []


def _weaknesses(q: Question, seen: Evidence) -> dict[str, float | int | str]:
    """The parameters at fault, with what they should be held against; empty where none is."""
    values = q.parameters
    if seen.needs != "gradient" or seen.trained or q.eps == 0:
        return {}
    found: dict[str, float | int | str] = {}
    if float(values.get("lr", 0)) > at.GREATEST_RATE:
        found["lr"] = float(values["lr"])
    steps, step = values.get("steps"), float(values.get("step", 0))
    if seen.minimal or not isinstance(steps, int) or math.isinf(q.eps):
        return found
    if q.norm == "linf" and steps < at.LEAST_STEPS:
        found["steps"] = steps
    if step > q.eps or 0 < step * steps < q.eps * (1 - 1e-9):
        found |= {"steps": steps, "step": step, "eps": q.eps}
    if values.get("restarts", 1) > 1 and values.get("random_start") is False:
        found |= {"restarts": values["restarts"], "random_start": "false"}
    return found

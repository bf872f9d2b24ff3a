"""The red flags of one cell, from the evidence that its run leaves: `flags` says what each one means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_gan.cell.probe import PROBED, Probe
from robustbench_gan.cell.purified import Shown
from robustbench_gan.contracts.attack import AttackInfo
from robustbench_gan.contracts.threat import Counts, ThreatModel
from robustbench_gan.flags import flag
from robustbench_gan.flags import thresholds as at
from robustbench_gan.nouns.outcome import Output
from robustbench_gan.nouns.record import Flag, Severity

Mask = NDArray[np.bool_]  # (N,)


@dataclass(frozen=True)
class Question:
    """What can be known of a cell before it runs."""

    info: AttackInfo
    parameters: Mapping[str, Any]
    threat: ThreatModel
    norm: str
    eps: float
    targeted: bool
    classes: int


@dataclass(frozen=True)
class Evidence:
    """What a cell's run leaves to check, of N samples under K judge seeds.

    `right`, `robust` and `stopped` are (K, N) bool: right unperturbed; that and not won; reached the goal but for a
    detector. `sizes` is (K or 1, N), `answers` holds the clean answers, one a judge seed, and `controls` the clean
    accuracies of classifier and defended system. `shown` is what the classifier was shown of the images. `drew` names
    the global generators that were moved while the attack was at work, `repeats` says that it did the same twice.
    """

    question: Question
    gradients: tuple[str, ...]
    counts: Counts
    sizes: Tensor
    answers: list[Output]
    right: Tensor
    robust: Tensor
    stopped: Tensor
    randomised: bool
    purifies: bool
    unrolls: bool
    controls: Mapping[str, float]
    probe: Probe
    agreement: float | None = None
    shown: Shown = field(default_factory=Shown)
    drew: tuple[str, ...] = ()
    repeats: bool = True

    @cached_property
    def attackable(self) -> Tensor:
        """(N,) bool: right unperturbed under some seed; only these can be lost."""
        return self.right.any(dim=0)

    @cached_property
    def stands(self) -> Tensor:
        """(N,) bool: not lost under some seed."""
        return self.robust.any(dim=0)


def red_flags(seen: Evidence) -> list[Flag]:
    """Every flag that the evidence raises; one of severity `invalid` makes the result suspect."""
    raised = [
        *_gradient_flags(seen), *_size_flags(seen), *_answer_flags(seen), *_randomness_flags(seen),
        *_attack_randomness_flags(seen),
        *_purifier_flags(seen), *_detector_flags(seen), *_strength_flags(seen), *parameter_flags(seen.question),
    ]  # fmt: skip
    if seen.agreement is not None and seen.agreement < at.AGREEMENT:
        raised.append(flag("weak-substitute", agreement=round(seen.agreement, 4)))
    return raised


def flags_of_error(error: BaseException) -> list[Flag]:
    """The flag that names a failure, where there is one."""
    try:
        name = getattr(error, "flag", "")
    except Exception:  # a stranger's exception may be anything
        return []
    told = isinstance(name, str) and name in ("disconnected-gradient", "budget-violation", "not-a-number")
    return [flag(name, "invalid")] if told else []


def _gradient_flags(seen: Evidence) -> Iterator[Flag]:
    """What the attack was given by way of gradients. A sample that fell to a random start needed none."""
    if "cut" in seen.gradients:
        yield flag("cut-gradient")
    question, attackable = seen.question, seen.attackable.cpu().numpy()
    if question.info.needs != "gradient" or not attackable.any():
        return
    # numpy's functions take a tenth of the time of torch's for so few numbers.
    counts = {name: value.cpu().numpy() for name, value in vars(seen.counts).items()}
    if question.threat.white and not counts["calls"][attackable].any():
        yield flag("defense-not-attacked")
        return
    if not counts["backward"][attackable].any():
        yield flag("no-backward")
        return
    total, asked = int(attackable.sum()), attackable & (counts["gradients"] > 0)
    standing = asked & seen.stands.cpu().numpy()
    enough = counts["gradients"] * (at.LEARNT_NOTHING if question.info.trained else 1)
    zero = int((standing & (counts["zero_gradients"] >= enough)).sum())
    if zero:
        severe = zero > at.ZERO_GRADIENT_SHARE * total
        yield flag("zero-gradient", "invalid" if severe else "note", samples=zero, of=total)
    broken = int((asked & (counts["nan_gradients"] > 0)).sum())
    if broken:
        severe = broken > at.ZERO_GRADIENT_SHARE * total
        yield flag("not-a-number", "invalid" if severe else "warning", samples=broken, of=total)
    tiny, flat = (standing & (counts[name] >= enough) for name in ("tiny_gradients", "flat_losses"))
    if int((tiny | flat).sum()) > at.SATURATED_SHARE * total:
        sure = _sure(seen)
        yield from _saturation(tiny & sure, (tiny | flat) & sure, total)


def _saturation(vanished: Mask, flat: Mask, total: int) -> Iterator[Flag]:
    """Samples (N,) of whose gradient nothing was left, and those of which at least half was lost."""
    severities: tuple[tuple[Severity, Mask], ...] = (("warning", vanished), ("note", flat))
    for severity, which in severities:
        samples = int(which.sum())
        if samples > at.SATURATED_SHARE * total:
            yield flag("saturated-loss", severity, samples=samples, of=total)
            return


def _sure(seen: Evidence) -> Mask:
    """(N,) bool: the clean answer's softmax is 1 in float32."""
    top = seen.answers[0].logits.double().log_softmax(dim=1).amax(dim=1)
    sure: Mask = (-torch.expm1(top) < at.SATURATED_CONFIDENCE).cpu().numpy()
    return sure


def _size_flags(seen: Evidence) -> Iterator[Flag]:
    eps, attackable = seen.question.eps, seen.attackable.cpu().numpy()
    if eps == 0 or not attackable.any():
        return
    sizes = seen.sizes.cpu().numpy()[:, attackable]
    if not (sizes > 0).any():
        yield flag("no-perturbation", "invalid", changed=0)
        return
    if seen.question.norm != "linf" or seen.question.info.minimal:
        return
    used = float(sizes.mean(dtype=np.float64)) / eps
    if used < at.MOVED_SHARE:
        yield flag("no-perturbation", "warning", mean_share_of_eps=round(used, 4))


def _answer_flags(seen: Evidence) -> Iterator[Flag]:
    """Softmax outputs in the place of logits."""
    logits = seen.answers[0].logits
    if len(logits) == 0:
        return
    low, high = map(float, logits.detach().aminmax())
    if not (low > -at.PROBABILITY_SLACK and high < 1 + at.PROBABILITY_SLACK):  # nearly always; nor is NaN
        return
    if bool(((logits.double().sum(dim=1) - 1).abs() < at.PROBABILITY_SLACK).all()):
        threat, needs = seen.question.threat, seen.question.info.needs
        climbed = needs == "gradient" and (threat.white or threat.name == "gray-box")
        yield flag("probabilities-as-logits", "invalid" if climbed else "warning", images=len(logits))


def _randomness_flags(seen: Evidence) -> Iterator[Flag]:
    probe, threat = seen.probe, seen.question.threat
    if probe.company_matters > at.SAME_ANSWER:
        changed, far = probe.company_changes, _short(probe.company_matters)
        yield flag("batch-dependent", labels_changed=changed, of=PROBED, distance=far)
    if probe.core_varies > at.SAME_ANSWER:
        yield flag("always-on-dropout", distance=_short(probe.core_varies))
        return  # it explains whatever else changes
    if probe.repeats_vary > at.SAME_ANSWER and not probe.own_randomness:
        severity: Severity = "invalid" if probe.label_changed else "warning"
        yield flag("stateful-defense", severity, distance=_short(probe.repeats_vary))
    elif probe.repeats_vary > at.SAME_ANSWER:
        yield flag("undeclared-randomness", distance=_short(probe.repeats_vary), under="the same seed")
    elif not seen.randomised:
        alike = len(seen.right) == 1  # as under one seed, next to no time
        changed = 0 if alike else int((seen.right != seen.right[0]).any(dim=0).sum())
        if changed or probe.seeds_vary > at.SAME_ANSWER:
            yield flag("undeclared-randomness", samples=changed, distance=_short(probe.seeds_vary))
    if seen.randomised and len(seen.right) < at.JUDGE_SEEDS:
        yield flag("single-seed", "warning" if len(seen.right) == 1 else "note", seeds=len(seen.right))
    aims = seen.question.info.needs == "gradient" and not seen.question.info.trained
    if seen.randomised and threat.name == "white-box" and threat.draws == 1 and aims:
        yield flag("no-eot", draws=threat.draws)


def _attack_randomness_flags(seen: Evidence) -> Iterator[Flag]:
    """What the attack's seeds do not govern, unless the system is known to answer otherwise under the same seeds."""
    probe = seen.probe
    if probe.core_varies > at.SAME_ANSWER or probe.repeats_vary > 0:
        return
    if not seen.repeats:
        yield flag("irreproducible-attack")
    if seen.drew:
        yield flag("global-generator", drew=", ".join(seen.drew))


def _purifier_flags(seen: Evidence) -> Iterator[Flag]:
    probe, shown = seen.probe, seen.shown
    if seen.unrolls or probe.differentiates:
        yield flag("inference-time-optimisation", declared=str(seen.unrolls).lower())
    if not seen.purifies:
        return
    if shown.outside > at.OUTSIDE:
        yield flag("range-mismatch", share=_short(shown.outside))
    alone, defended = seen.controls["classifier"], seen.controls["defended"]
    facts = {"classifier": round(alone, 4), "defended": round(defended, 4)}
    if shown.distance > at.DESTROYED and alone - defended > at.COLLAPSE:
        yield flag("misconfigured-purifier", **facts, distance=_short(shown.distance))
    if shown.spread < at.ALL_ALIKE:
        yield flag("image-discarded", "invalid", spread=_short(shown.spread))
    elif abs(shown.likeness) < at.UNLIKE and seen.right.shape[1] >= at.LIKENESS_IMAGES:
        yield flag("image-discarded", "warning", likeness=_short(shown.likeness))
    if defended - alone > at.tolerance(alone, seen.right.shape[1]):
        yield flag("reconstructions-beat-originals", **facts)


def _detector_flags(seen: Evidence) -> Iterator[Flag]:
    if seen.answers[0].scores.shape[1] == 0:
        return
    rejected = float(torch.stack([~out.accepted for out in seen.answers]).double().mean())
    if rejected > at.CLEAN_REJECTED:
        yield flag("rejects-clean-images", share=round(rejected, 4))
    standing, stopped = int(seen.robust.sum()), int((seen.stopped & seen.right).sum())
    threat = seen.question.threat
    if (
        threat.holds_defense
        and seen.question.info.needs == "gradient"
        and stopped > at.STOPPED_SHARE * standing
    ):
        yield flag("detector-not-attacked", stopped=stopped, of=standing)


def _strength_flags(seen: Evidence) -> Iterator[Flag]:
    """What stands in a ball where nothing can."""
    q = seen.question
    if not (q.norm == "linf" and at.HALF <= q.eps < math.inf and q.threat.white and not q.targeted):
        return
    if q.info.needs != "gradient" or q.info.minimal or q.info.trained:
        return
    accuracy, n = float(seen.robust.double().mean()), seen.robust.shape[1]
    chance = 1 / q.classes
    if accuracy > chance + max(at.ABOVE_CHANCE, at.tolerance(chance, n)):
        many = "steps" in q.parameters and q.parameters["steps"] > 1
        severity: Severity = "invalid" if many else "warning"
        yield flag("robust-at-half", severity, accuracy=round(accuracy, 4), chance=round(chance, 4))


def parameter_flags(q: Question) -> list[Flag]:
    """What the parameters of an attack that can be run say."""
    faults = _weaknesses(q)
    return [flag("weak-hyper-parameters", **faults)] if faults else []


def undefined_losses(q: Question) -> list[Flag]:
    """What the parameters of an attack that found itself not applicable say."""
    loss = str(q.parameters.get("loss", ""))
    least = 4 if q.targeted or loss == "dlr-targeted" else 3
    if not loss.startswith("dlr") or q.classes >= least:
        return []
    return [flag("dlr-undefined", classes=q.classes, needed=least)]


def _weaknesses(q: Question) -> dict[str, float | int | str]:
    """The parameters at fault, with what they should be held against; empty where none is."""
    info, values = q.info, q.parameters
    if info.needs != "gradient" or info.trained or q.eps == 0:
        return {}
    found: dict[str, float | int | str] = {}
    if float(values.get("lr", 0)) > at.GREATEST_RATE:
        found["lr"] = float(values["lr"])
    steps, step = values.get("steps"), float(values.get("step", 0))
    if info.minimal or not isinstance(steps, int) or math.isinf(q.eps):
        return found
    if q.norm == "linf" and steps < at.LEAST_STEPS:
        found["steps"] = steps
    if step > q.eps or 0 < step * steps < q.eps * (1 - 1e-9):
        found |= {"steps": steps, "step": step, "eps": q.eps}
    if values.get("restarts", 1) > 1 and values.get("random_start") is False:
        found |= {"restarts": values["restarts"], "random_start": "false"}
    return found


def _short(value: float) -> float:
    return float(f"{value:.4g}")

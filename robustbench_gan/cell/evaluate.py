"""One cell: craft examples under its threat model, check them, judge them, and record all of it.

What its steps share is in context.py; they are craft.py, judge.py, provenance.py and, for the limit on time,
estimate.py.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import importlib_metadata

from robustbench_gan.base import machine, stopping
from robustbench_gan.base.errors import NotApplicable, describe, plain, said
from robustbench_gan.base.tensors import Meddled
from robustbench_gan.cell import provenance
from robustbench_gan.cell.context import Crafted, Run, Settings, gradients_of
from robustbench_gan.cell.craft import craft
from robustbench_gan.cell.estimate import Estimate, estimate
from robustbench_gan.cell.evidence import Seen, evidence_of
from robustbench_gan.cell.judge import Verdict, detection_of, judge
from robustbench_gan.cell.prepare import fit, prepare
from robustbench_gan.cell.probe import probe
from robustbench_gan.cell.purified import Watched
from robustbench_gan.cell.question import Planned
from robustbench_gan.cell.rehearsal import Asked, refusal
from robustbench_gan.contracts.counts import Counts, Deadline, OutOfTime
from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.flags.derive import with_flags
from robustbench_gan.flags.question import Question
from robustbench_gan.flags.refusals import flags_of_error, undefined_losses
from robustbench_gan.guards.strangers import take_part
from robustbench_gan.guards.surroundings import Surroundings
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.evidence import Evidence, Shown
from robustbench_gan.nouns.flag import Flag
from robustbench_gan.nouns.record import Cell, Result, Seconds, Status
from robustbench_gan.nouns.seeds import judge_seeds
from robustbench_gan.nouns.spec import UNDEFENDED, Spec
from robustbench_gan.results.coherence import coherent
from robustbench_gan.results.kept import keep

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Workshop

END_FRAMES = 20  # that a traceback keeps at each end
REPORTED_PACKAGES = ("robustbench-gan", "torch", "numpy")


def evaluate_cell(planned: Planned, workshop: Workshop, settings: Settings) -> Result:
    """The result of one cell. An attack or defense that raises makes it `failed`, never robust.

    Raises Fatal (bad input that no cell can do without) and lets the user's interrupt through; everything else that is
    raised, exits included, ends in the record.
    """
    with stopping.PluginCall():
        cell = planned.cell
        if planned.reason or not take_part(cell.classifier, cell.defense, cell.attack, cell.threat):
            return _evaluated(planned, workshop, settings)
        # Taken hold of before any of their code runs, which may exchange what our code calls by name.
        known, put_back = set(workshop.memory), Surroundings(thorough=True).put_back
        result = _evaluated(planned, workshop, settings)
        found = put_back()
        result = _data_as_it_was(planned, workshop, result, known)
        if found and result.status != "failed":
            return _failed(planned, Meddled(f"a plugin changed what is not its own: {', '.join(found)}"))
        return result


def _data_as_it_was(planned: Planned, workshop: Workshop, result: Result, known: set[Any]) -> Result:
    """The result of a cell in which code ran that is not bundled: `failed` where that changed any image or label.

    Edits in place are counted and found at once, those by way of numpy or `.data` only by comparing all values, which
    takes milliseconds. They are undone, and what was computed since is forgotten.
    """
    cell = planned.cell
    try:
        data = workshop.loaded(cell.dataset)
    except Exception:  # there is none, which is the cell's reason
        return result
    if not (found := data.checked()):
        return result
    for key in workshop.memory.keys() - known:
        if key[0] in ("crafted", "judged", "probe", "shown", "timing", "parts", "answers"):
            del workshop.memory[key]
    if result.status == "failed":
        return result
    who = "the attack"
    defense = workshop.defense(cell.dataset, cell.classifier, cell.defense)
    for suspect in workshop.suspects(
        (cell.dataset, cell.classifier, cell.defense), Bare(defense.base), Defended(defense)
    ):
        with contextlib.suppress(Exception):
            suspect.ask()
        if data.checked():
            who = suspect.name
            break
    return _failed(planned, Meddled(f"{who} changed what is not its own: {', '.join(found)}"))


def _evaluated(planned: Planned, workshop: Workshop, settings: Settings) -> Result:
    if planned.reason:
        flags = _undefined_losses(planned, workshop)
        return _without_outcomes(planned, "not applicable", planned.reason, flags=flags)
    run = None
    try:
        if reason := _no_copy(planned, workshop):
            return _without_outcomes(planned, "not applicable", reason)
        run = prepare(planned, workshop, settings)
        expected = estimate(run) if settings.max_cell_minutes is not None else None
        if expected is not None and expected.least > 60 * (settings.max_cell_minutes or 0):
            minutes, limit = expected.least / 60, settings.max_cell_minutes
            reason = f"estimated at {minutes:.1f} minutes at least, above the limit of {limit:g}"
            return _without_outcomes(planned, "not run", reason, estimate_seconds=expected.least)
        return coherent(_attack_and_judge(run, expected))
    except OutOfTime as late:
        if settings.max_cell_minutes is None or not late.is_real:  # a plugin has said so
            return _failed(planned, late)
        reason = f"stopped after {settings.max_cell_minutes:g} minutes of {late}, the limit"
        return _without_outcomes(planned, "not run", reason)
    except NotApplicable as why:
        return _refused(planned, workshop, run, why)
    except BaseException as error:  # a crash is a failed cell, never a survived attack
        stopping.pass_on(error)
        return _failed(planned, error)


def _failed(planned: Planned, error: BaseException) -> Result:
    trace, reason = _frames(error), describe(error)
    return _without_outcomes(planned, "failed", reason, traceback=trace, flags=flags_of_error(error))


def _frames(error: BaseException) -> list[str]:
    """File, line and function of each frame; of an endless recursion the first and the last ones."""
    found = [
        plain(f"{Path(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name}")
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    if len(found) <= 2 * END_FRAMES:
        return found
    left_out = f"... {len(found) - 2 * END_FRAMES} more"
    return [*found[:END_FRAMES], left_out, *found[-END_FRAMES:]]


def _no_copy(planned: Planned, workshop: Workshop) -> str:
    """Why a defense cannot be copied, which only its training tells; empty where it can, or is not to be."""
    if not planned.threat.copies:
        return ""
    cell = planned.cell
    try:
        workshop.copy(cell.dataset, cell.classifier, cell.defense)
    except NotApplicable as why:
        return said(why)
    return ""


def _refused(planned: Planned, workshop: Workshop, run: Run | None, why: NotApplicable) -> Result:
    """What a NotApplicable of the run comes to: an answer where the attack alone says so before its first pass.

    Anything that only the system can have told it, or that a defense raised, has failed: else a defense that refuses
    to be attacked would have no attack to answer for.
    """
    if run is not None:
        cell, data = planned.cell, workshop.dataset(planned.cell.dataset)
        parts = frozenset(run.parts) if planned.threat.differentiates else frozenset()
        asked = Asked(run.budget, cell.goal != "untargeted", data.shape, len(data.classes), parts)
        if reason := refusal(run.function, run.info, run.parameters, asked):
            flags = _undefined_losses(planned, workshop)
            return _without_outcomes(planned, "not applicable", reason, flags=flags)
    reason = f"NotApplicable under attack: {said(why) or 'it does not say why'}"
    return _without_outcomes(planned, "failed", reason, traceback=_frames(why))


def _without_outcomes(planned: Planned, status: Status, reason: str, **more: Any) -> Result:
    cell, control = planned.cell, planned.control
    return Result(
        cell=cell, fingerprint=cell.fingerprint, status=status, reason=reason, control=control, **more
    )


def _attack_and_judge(run: Run, expected: Estimate | None) -> Result:
    """Craft and judge. What may take longer than its limit, though not surely, is begun, and stopped there."""
    limit = 60 * (run.settings.max_cell_minutes or 0)
    fit(run)
    run.workshop.defense(run.cell.dataset, run.cell.classifier, UNDEFENDED)  # which is asked as well
    if expected is not None and expected.most > limit:
        run.deadline = Deadline(time.monotonic() + limit)
    run.around = Surroundings(thorough=run.strangers)
    crafted, crafting = craft(run)
    with run.workshop.answering(run.system_names(), copy=run.held, around=run.around):
        return _judged(run, crafted, crafting, expected)


def _judged(run: Run, crafted: list[Crafted], crafting: float, expected: Estimate | None) -> Result:
    cell, names = run.cell, run.system_names()
    shown = run.workshop.once(("shown", names, cell.first, cell.samples, cell.seed), lambda: _shown(run))
    verdict = judge(run, crafted)
    counts = reduce(Counts.plus, (c.counts for c in crafted))
    substitute = provenance.substitute(run, verdict.clean)
    controls = provenance.controls(run, verdict.clean)
    to = run.settings.keep
    kept = None if to is None else keep(to, cell, [one.examples for one in crafted], run.y)
    unflagged = Result(
        cell=cell,
        fingerprint=cell.fingerprint,
        status="ok",
        evidence=_evidence(run, crafted, counts, verdict, shown),
        control=run.info.control,
        outcomes=verdict.outcomes(counts),
        detection=detection_of(run, verdict),
        controls=controls,
        attacked=provenance.attacked(run, crafted, verdict.attacked),
        distortion=provenance.distortion(run, crafted, verdict.right & ~verdict.robust),
        zero_gradients=provenance.zero_gradients(counts),
        substitute=substitute,
        trained=provenance.training(run),
        adversarial=kept,
        queries=provenance.queries(run, counts),
        attacked_copy=provenance.attacked_copy(run, verdict.clean),
        precision=dict(run.defense.precision()),
        gradients=list(gradients_of(run)) if run.threat.differentiates else [],
        estimate_seconds=None if expected is None else expected.most,
        seconds=Seconds(
            training=provenance.training_seconds(run), crafting=crafting, judging=verdict.seconds
        ),
        peak_memory_mb=machine.peak_memory_mb(),
        hardware=provenance.hardware(run.x.device),
        versions=_versions(cell),
        weights={name: artifact.digest for name, artifact in provenance.artifacts(run).items()},
    )
    return with_flags(unflagged)


def _versions(cell: Cell) -> dict[str, str]:
    """Of the packages that decide an answer: ours and its own, and those that brought what the cell names."""
    named = [("attacks", cell.attack), *(("defenses", spec) for spec in cell.defense)]
    if isinstance(cell.classifier, Spec):
        named.append(("models", cell.classifier))
    brought = [registry.entry(group, spec.name) for group, spec in named]
    versions = {name: importlib_metadata.version(name) for name in REPORTED_PACKAGES}
    return {**{entry.distribution: entry.version for entry in brought}, **versions}


def _undefined_losses(planned: Planned, workshop: Workshop) -> list[Flag]:
    """Why an attack is not applicable, where that is its loss."""
    return undefined_losses(Question.of(planned.cell), len(workshop.dataset(planned.cell.dataset).classes))


def _shown(run: Run) -> Shown:
    """What the classifier is shown of the judged images; their answers are the judge's clean ones, asked only once."""
    if not run.defense.purifies:
        return Shown()
    cell, watched = run.cell, Watched(run.defense, len(run.x))
    run.workshop.judged(run.system_names(), run.x, cell.first, cell.seed, 0, watched)
    return watched.facts()


def _evidence(
    run: Run, crafted: Sequence[Crafted], counts: Counts, verdict: Verdict, shown: Shown
) -> Evidence:
    """What red flags look at. Every cell that attacks the same system on the same images shares one probe of it."""
    cell, names, defense = run.cell, run.system_names(), run.defense
    seeds, answers = judge_seeds(cell.seed, 0, run.x, cell.first), verdict.clean[0]
    looked = run.workshop.once(
        ("probe", names, cell.first, cell.seed), lambda: probe(defense, run.x, seeds, answers)
    )
    drew = tuple(sorted({name for one in crafted for name in one.drew}))
    classes = len(run.workshop.dataset(cell.dataset).classes)
    seen = Seen(
        run.info, defense, classes, _seen(run, counts), verdict.clean, verdict.right, verdict.robust, verdict.stopped,
        looked, shown, drew, all(one.repeats for one in crafted),
    )  # fmt: skip
    return evidence_of(seen)


def _seen(run: Run, counts: Counts) -> Counts:
    """What red flags look at: what was done to each sample, and to get a trained attack, to all of its images."""
    if not run.fitted:
        return counts
    infos = [part.artifact.info for part in run.fitted.values()]
    # Weights stored before a counter was added to the view lack it, and only what was counted can be held against them.
    totals = {name: sum(info.get(name, 0) for info in infos) for name in vars(counts)}
    return Counts(**{name: value + totals[name] for name, value in vars(counts).items()})

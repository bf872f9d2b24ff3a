"""A matrix laid out as cells, each known in full, and applicable or not, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from robustbench_gan.base import stopping
from robustbench_gan.base.digests import code_digest
from robustbench_gan.base.errors import UsageError, unknown
from robustbench_gan.base.redirect import aside
from robustbench_gan.cell.question import Planned, stages_of, why_not
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.contracts.threat import ThreatModel
from robustbench_gan.data.dataset import HOLDOUT
from robustbench_gan.engine.identity import identity_of, identity_of_substitute
from robustbench_gan.engine.matrix import Block, Matrix
from robustbench_gan.engine.naming import canonical, check_weights, name_classifier, name_dataset, name_threat
from robustbench_gan.engine.refusals import declined_by, refused_before
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget, norm_named
from robustbench_gan.nouns.record import GOALS, Cell
from robustbench_gan.nouns.spec import Chain, Classifier, FileReference, Spec
from robustbench_gan.nouns.user_files import with_files

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Workshop


@aside()
def lay_out(matrix: Matrix, workshop: Workshop) -> list[Planned]:
    """Every cell of a matrix once, those that share a system next to each other.

    Raises UsageError for unknown names and parameters, absurd budgets, samples beyond the split and weights that
    nothing takes, before anything is trained.
    """
    planned: dict[str, Planned] = {}
    blocks = list(matrix.blocks())
    check_weights([c for b in blocks for c in b.classifiers], workshop)
    for block in blocks:
        for item in _cells(block, workshop):
            known = planned.get(item.cell.fingerprint, item)
            planned[item.cell.fingerprint] = replace(
                known, budgets=tuple(sorted({*known.budgets, *item.budgets}))
            )
    return list(planned.values())


def _cells(block: Block, workshop: Workshop) -> Iterator[Planned]:
    attacks = [canonical("attacks", spec) for spec in block.attacks]
    threats = [name_threat(spec, block) for spec in block.threats]
    goals = [_goal(g) for g in block.goals]
    budgets = [_budget(block.norm, eps) for eps in block.eps]
    functions = {spec: registry.load("attacks", spec.name) for spec in attacks}
    digests = {spec: with_files(code_digest(f), spec) for spec, f in functions.items()}
    models = {given: name_classifier(given, workshop) for given in block.classifiers}
    for dataset, classifier, defense in product(block.datasets, block.classifiers, block.defenses):
        data = name_dataset(canonical("datasets", dataset), workshop)
        model = models[classifier]
        _try_classifier(data, model, workshop)
        chain = Chain(tuple(canonical("defenses", spec) for spec in defense))
        identity = identity_of(workshop, data, model, chain, block.train_seed)
        images = workshop.dataset(data)
        form = images.shape, len(images.classes)
        declined, stages = declined_by(chain, *form), stages_of(chain)
        for (asked, threat), attack, goal, budget in product(threats, attacks, goals, budgets):
            first, samples = _samples(block, threat, len(images.test))
            info = info_of(functions[attack])
            cell = Cell(
                dataset=data, classifier=model, defense=chain, attack=attack, goal=goal, threat=asked,
                norm=budget.norm, eps=float("inf") if info.minimal else budget.eps,
                first=first, samples=samples, seed=block.seed, judge_seeds=block.judge_seeds,
                identity={**identity, **identity_of_substitute(threat), "attack": digests[attack]},
            )  # fmt: skip
            reason = (
                declined
                or why_not(info, stages, threat, goal, budget.norm, budget.eps, form[1])
                or refused_before(functions[attack], attack, Budget(budget.norm, cell.eps), goal, *form)
            )
            radii = (budget.eps,) if info.minimal and budget.eps < float("inf") else ()
            yield Planned(cell, threat, reason, info.control, radii)


def _try_classifier(data: Spec, model: Classifier, workshop: Workshop) -> None:
    """Find out before anything is run that a user's classifier cannot be made, or that its weights do not fit."""
    if not isinstance(model, FileReference):
        return
    try:
        workshop.classifier(data, model)
    except UsageError:
        raise
    except BaseException as error:  # remembered by the workshop: each cell that needs it fails
        stopping.pass_on(error)


def _goal(text: str) -> Any:
    if text not in GOALS:
        raise unknown("goal", text, GOALS)
    return text


def _budget(norm: str, eps: float) -> Budget:
    return Budget(norm_named(norm), eps)


def _samples(block: Block, threat: ThreatModel, total: int) -> tuple[int, int]:
    """First judged image and how many. The first 150 test images are the substitute's wherever that fits.

    So all threat models judge the same images; only when all images are asked for does black-box judge fewer.
    """
    black = threat.name == "black-box"
    if block.samples == "all":
        return (HOLDOUT, total - HOLDOUT) if black else (0, total)
    if block.samples < 1 or block.samples > total - (HOLDOUT if black else 0):
        raise UsageError(
            f"samples={block.samples}: the test split has {total} images"
            + (f", {HOLDOUT} of them the substitute's" if black else "")
            + ". Ask for at least 1 and no more, or for 'all'."
        )
    return (HOLDOUT if block.samples <= total - HOLDOUT else 0), block.samples

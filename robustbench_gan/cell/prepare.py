"""A cell made ready: its system, images and attack, and the training of an attack that needs one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from robustbench_gan.cell.context import Run, Settings, goals_of
from robustbench_gan.cell.question import Planned, stages_of
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.contracts.composition import Composed
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.record import Cell
from robustbench_gan.training.orders import Order

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Workshop


def prepare(planned: Planned, workshop: Workshop, settings: Settings) -> Run:
    """The cell at work before its attack is trained or run. Raises what the making of its system ended in."""
    cell = planned.cell
    function, parameters = registry.resolve("attacks", cell.attack)
    defense = workshop.defense(cell.dataset, cell.classifier, cell.defense)
    _as_declared(cell, defense)
    held = defense
    if planned.threat.copies:
        held = workshop.copy(cell.dataset, cell.classifier, cell.defense)
    workshop.put_back((cell.dataset, cell.classifier, cell.defense), defense.base, defense, held)
    x, y = workshop.images(cell.dataset, cell.first, cell.samples)
    run = Run(planned, workshop, settings, function, info_of(function), parameters, defense, held, x, y)
    if planned.threat.differentiates:
        run.parts  # noqa: B018 - asked before any attack begins
    return run


def _as_declared(cell: Cell, defense: Defense) -> None:
    """Raises RuntimeError where a defense is not what it said it was when the attacks on it were planned."""
    built = list(defense.stages) if isinstance(defense, Composed) else [defense]
    for stage, planned in zip(built, stages_of(cell.defense), strict=True):
        for name in ("purifies", "randomised", "unrolls"):
            said, is_ = getattr(planned, name), getattr(stage, name)
            if said != is_:
                raise RuntimeError(
                    f"{type(stage).__name__}.{name} was {said} when its attacks were planned and is {is_} now"
                )


def train_attack(planned: Planned, workshop: Workshop, settings: Settings) -> None:
    """Train what the attack of a cell needs, once for all cells that can share it.

    Raises OutOfTime where that takes longer than a cell may.
    """
    fit(prepare(planned, workshop, settings))


def fit(run: Run) -> None:
    """Train an attack that must be trained: once, or unless it is conditional once a class that a goal aims at."""
    if not run.info.trained:
        return
    targets: list[int | None] = [None]
    if run.cell.goal != "untargeted" and not run.function.conditional:
        targets = sorted(torch.cat([goal.classes for goal in goals_of(run)]).unique().tolist())
    for target in targets:
        order = Order(run.system_names(), run.cell.attack, run.threat, target, run.budget)
        run.fitted[target] = run.workshop.trained_attack(order, run.settings.max_cell_minutes)

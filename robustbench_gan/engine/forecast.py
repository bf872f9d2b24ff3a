"""What a matrix will take, before any of it runs: which steps are done, which train, and how long each cell may take.

Seconds of crafting and judging are counted passes times the seconds of one, timed on a few images through systems that
are stored, or as they are before training; seconds of training are those of the same recipe where it was trained
before. What cannot be had this way is None. Nothing is trained, and no answer depends on any of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from robustbench_gan.base import stopping
from robustbench_gan.base.errors import NotApplicable
from robustbench_gan.base.machine import described
from robustbench_gan.base.redirect import aside
from robustbench_gan.cell.context import Run, Settings
from robustbench_gan.cell.estimate import Estimate, estimate
from robustbench_gan.cell.question import Planned
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.engine.execute import finished
from robustbench_gan.engine.plan import Step, result_path, steps_of
from robustbench_gan.engine.quick_clock import QuickClock, Unknown
from robustbench_gan.engine.untrained import StandIns, Trainings, beside, may_be_fitted
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.record import Cell
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.results.stored import read_result
from robustbench_gan.training.orders import Order
from robustbench_gan.training.store import Recipe

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Workshop


class Trained(NamedTuple):
    """A shared step: is it there already, and if not the seconds of its training, None where nothing tells."""

    step: Step
    stored: bool
    seconds: float | None


@dataclass(frozen=True)
class Forecast:
    """What is known of a matrix before it runs.

    By fingerprint of the cells that can be run: `done` are those whose record lies in the directory of results, `cells`
    has an estimate of others, `unknown` says of the rest why there is none.
    """

    steps: tuple[Trained, ...]
    done: frozenset[str]
    cells: dict[str, Estimate]
    unknown: dict[str, str]

    def total(self, limit: float | None = None) -> Estimate:
        """Seconds of all that is estimated, trainings included; no cell takes more than `limit` seconds."""
        training = sum(one.seconds or 0.0 for one in self.steps)
        known = [self.within(one, limit) for one in self.cells.values()]
        return Estimate(training + sum(k.least for k in known), training + sum(k.most for k in known))

    @staticmethod
    def within(one: Estimate, limit: float | None) -> Estimate:
        """What a cell takes that is not run where it surely takes longer than `limit` seconds, and stopped there."""
        if limit is None:
            return one
        return Estimate(0.0, 0.0) if one.least > limit else Estimate(one.least, min(one.most, limit))


@aside()
def forecast(planned: Sequence[Planned], workshop: Workshop, out: Path) -> Forecast:
    """Look at every step and cell of a plan; takes seconds. Raises UsageError for a record in `out` that is none."""
    todo = [item for item in planned if not item.reason]
    done = frozenset(item.cell.fingerprint for item in todo if finished(out, item) is not None)
    todo = [item for item in todo if item.cell.fingerprint not in done]
    shop = beside(workshop)
    steps = tuple(_looked_up(steps_of(todo), workshop, shop))
    clock, cells, unknown = QuickClock(), dict[str, Estimate](), dict[str, str]()
    for item in todo:
        try:
            cells[item.cell.fingerprint] = _recorded(out, item, workshop) or _estimated(item, shop, clock)
        except Unknown as why:
            unknown[item.cell.fingerprint] = str(why)
    return Forecast(steps, done, cells, unknown)


def _looked_up(steps: Sequence[Step], workshop: Workshop, shop: Workshop) -> list[Trained]:
    """Each shared step with what it would train. Makes each system on the way, for the timings."""
    datasets = {step.planned.cell.dataset for step in steps}
    images = {data.digest: len(data.train) for data in map(workshop.dataset, datasets)}
    known, found = Trainings(workshop.store, images), dict[str, Trained]()
    for step in steps:
        if step.kind == "cell":
            continue
        waits = step.kind == "attack" and not all(found[key].stored for key in step.needs)
        absent = None if waits else _absent(step, shop)
        if absent is None:  # made by who knows what, or on top of what is not there
            found[step.key] = Trained(step, False, None)
            continue
        seconds = [known.expected(kind, recipe) for kind, recipe in absent]
        total = None if None in seconds else sum(one or 0.0 for one in seconds)
        found[step.key] = Trained(step, not absent, total)
    return list(found.values())


def _absent(step: Step, shop: Workshop) -> list[tuple[str, Recipe]] | None:
    """Kind and recipe of all that the store lacks for a step; None where only the run can tell."""
    if step.kind != "classifier" and not may_be_fitted(step.planned.cell.defense):
        return None
    store = shop.store
    assert isinstance(store, StandIns)
    before = set(store.absent)
    try:
        with stopping.PluginCall():
            _make(step, shop)
    except NotApplicable:  # a copy of what is not trained
        pass
    except (
        BaseException
    ) as error:  # what is stored must be read whole; what stands in for the rest need not fit
        stopping.pass_on(error)
        if before == set(store.absent):
            return None
    return [store.absent[key] for key in store.absent if key not in before]


def _make(step: Step, shop: Workshop) -> None:
    cell, threat = step.planned.cell, step.planned.threat
    names = cell.dataset, cell.classifier, cell.defense
    if step.kind == "classifier":
        shop.classifier(cell.dataset, cell.classifier)
    elif step.kind == "defense":
        shop.defense(*names)
    elif step.kind == "copy":
        shop.copy(*names)
    elif step.kind == "substitute":
        shop.substitute(*names, threat)
    else:
        kind = registry.load("attacks", cell.attack.name)
        target = (
            None if cell.goal == "untargeted" or kind.conditional else 0
        )  # the other classes take as long
        shop.trained_attack(Order(names, cell.attack, threat, target, Budget(cell.norm, cell.eps)))


def _recorded(out: Path, item: Planned, workshop: Workshop) -> Estimate | None:
    """What the same question took here before, by other code, data or weights."""
    path = result_path(out, item)
    if not path.exists():
        return None
    result = read_result(path)
    here = described(workshop.device)
    if result.outcomes is None or any(result.hardware.get(name) != text for name, text in here.items()):
        return None
    seconds = result.seconds.crafting + result.seconds.judging
    return Estimate(seconds, seconds)


def _estimated(item: Planned, shop: Workshop, clock: QuickClock) -> Estimate:
    """A cell's seconds by the passes that its attack declares. Raises Unknown where its system cannot be timed."""
    cell = item.cell
    if not may_be_fitted(cell.defense):
        raise Unknown("a plugin's defense, which is fitted in a run alone")
    try:
        with stopping.PluginCall():
            function, parameters = _resolved(cell.attack)
            defense = shop.defense(cell.dataset, cell.classifier, cell.defense)
            x, y = _images(shop, cell)
            run = Run(item, shop, Settings(), function, info_of(function), parameters, defense, defense, x, y)
            return estimate(run, clock)
    except Unknown:
        raise
    except BaseException as error:
        stopping.pass_on(error)
        raise Unknown("they cannot be timed before they are trained") from error


def _images(shop: Workshop, cell: Cell) -> tuple[Tensor, Tensor]:
    """As many images as the cell has, (N, C, H, W), and labels (N,): one over and over, which takes no memory."""

    def first() -> tuple[Tensor, Tensor]:
        split = shop.dataset(cell.dataset).test.take(slice(cell.first, cell.first + 1))
        return split.pixels().to(shop.device), split.labels.to(shop.device)

    x, y = shop.once(("forecast", cell.dataset, cell.first), first)
    return x.expand(cell.samples, *x.shape[1:]), y.expand(cell.samples)


@lru_cache(maxsize=1024)
def _resolved(attack: Spec) -> tuple[Any, dict[str, Any]]:
    return registry.resolve("attacks", attack)

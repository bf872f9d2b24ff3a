"""A plan at work: each step once, each result on disk as it comes, and nothing done twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_gan.base import stopping
from robustbench_gan.base.files import keep_replaced, refuse_links, write_text_atomically
from robustbench_gan.base.redirect import aside
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.prepare import train_attack
from robustbench_gan.cell.question import Planned
from robustbench_gan.engine.plan import Kind, Step, result_path, steps_of
from robustbench_gan.flags.derive import with_flags
from robustbench_gan.flags.identity import checks_digest
from robustbench_gan.nouns.record import Result
from robustbench_gan.results.kept import are_kept, beside
from robustbench_gan.results.stored import read_result, write_text
from robustbench_gan.results.systems import system_of, system_weights

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Workshop


RunCell = Callable[[Planned, "Workshop", Settings], Result]


def finished(out: Path, item: Planned, keep: bool = False) -> Result | None:
    """The stored result of a cell, if it need not be run: right fingerprint, not failed, not to be tried again.

    With `keep` one that has a number must have its examples beside it as well, or they are made again.
    Raises UsageError for a file that is there but is no valid record of this version.
    """
    path = result_path(out, item)
    if not path.exists():
        return None
    result = read_result(path)
    if result.fingerprint != item.cell.fingerprint or result.status in ("failed", "not run"):
        return None  # one that was not run is estimated anew: the machine may be another, or have been busy
    if keep and result.outcomes is not None and not are_kept(path, result):
        return None
    return result


def train(step: Step, workshop: Workshop, settings: Settings | None = None) -> None:
    """Make a shared step's artifact. An error is the workshop's to remember: the cells that need it will fail."""
    cell = step.planned.cell
    makers: dict[Kind, Callable[[], object]] = {
        "classifier": lambda: workshop.classifier(cell.dataset, cell.classifier),
        "defense": lambda: workshop.defense(cell.dataset, cell.classifier, cell.defense),
        "copy": lambda: workshop.copy(cell.dataset, cell.classifier, cell.defense),
        "substitute": lambda: workshop.substitute(
            cell.dataset, cell.classifier, cell.defense, step.planned.threat
        ),
        "attack": lambda: train_attack(step.planned, workshop, settings or Settings()),
    }
    makers[step.kind]()


@aside()
def execute(
    planned: list[Planned],
    workshop: Workshop,
    settings: Settings,
    out: Path,
    *,
    run_cell: RunCell,
    on_step: Callable[[Step], None],
    on_result: Callable[[Planned, Result, bool], None],
    on_replaced: Callable[[Path], None] = lambda kept: None,
    on_derived: Callable[[Result, Result], None] = lambda before, now: None,
    apart: bool = False,
) -> list[Result]:
    """Run what is not finished, write each result as it comes, and return all of them in the order planned.

    `on_step` is told of each step before it starts, `on_result` of each result and whether it was already there.
    `run_cell` runs one cell, in this process or elsewhere: the answer must be the same. With `apart` it makes there
    what the cell stands on, so that nothing of it is made here.

    Whatever was finished stays on disk, however this ends: another answer to the same question, by other code, data or
    weights, is moved to OUT/replaced before it is written over, and `on_replaced` is told where to. What is stored of
    a system counts as finished only where its weights are those that this run judges the system with; flags that other
    checks raised are derived anew from its evidence, and `on_derived` is told of both records.
    """
    work = _Work(workshop, settings, out, run_cell, on_step, on_result, on_replaced, on_derived, apart)
    todo = work.sort(planned)
    for system in [*work.stored]:
        if not any(system == system_of(item.cell) for item in todo if not item.reason):
            work.settle(system)  # nothing is judged anew that could have other weights
    for item in todo:
        if item.reason:
            work.record(item)
    work.run(todo)
    for system in [*work.stored]:
        work.settle(system)
    work.run(work.again)
    return [work.results[item.cell.fingerprint] for item in planned]


@dataclass
class _Work:
    """What an execution is told, and how far it is.

    Results that were found on disk wait in `stored`, by their system, until the first new one of that system tells
    whether it still has the weights they were judged with; those that do not stand are run `again`.
    """

    workshop: Workshop
    settings: Settings
    out: Path
    run_cell: RunCell
    on_step: Callable[[Step], None]
    on_result: Callable[[Planned, Result, bool], None]
    on_replaced: Callable[[Path], None]
    on_derived: Callable[[Result, Result], None]
    apart: bool
    results: dict[str, Result] = field(default_factory=dict)
    stored: dict[tuple[str, ...], list[tuple[Planned, Result]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    again: list[Planned] = field(default_factory=list)

    def sort(self, planned: Iterable[Planned]) -> list[Planned]:
        """What is to be run; the others are on disk and wait for their system."""
        todo = []
        for item in planned:
            done = finished(self.out, item, self.settings.keep is not None)
            if done is None:
                todo.append(item)
            else:
                self.stored[system_of(item.cell)].append((item, done))
        return todo

    def run(self, items: Iterable[Planned]) -> None:
        """Make what these cells share and run them, each step when all that it needs is there."""
        for step in steps_of(items):
            if step.kind == "cell":
                self.on_step(step)
                self.record(step.planned)
            elif not self.apart:
                self.on_step(step)
                _try(step, self.workshop, self.settings)

    def record(self, item: Planned) -> None:
        """Run a cell and write its result, without losing another answer that lies there."""
        result = self.run_cell(item, self.workshop, self.settings)
        result = result.model_copy(update={"budgets": list(item.budgets)})
        path = result_path(self.out, item)
        refuse_links(path, self.out)
        if _answers_otherwise(path, result):
            self.on_replaced(keep_replaced(path, self.out))
            if result.adversarial is None and beside(path).exists():
                keep_replaced(beside(path), self.out)
                beside(path).unlink()
        write_text_atomically(path, write_text(result))
        self.on_result(item, result, False)
        self.results[item.cell.fingerprint] = result
        if result.outcomes is not None:
            self.settle(system_of(item.cell), system_weights(result))

    def settle(self, system: tuple[str, ...], weights: dict[str, str] | None = None) -> None:
        """Take what is stored of a system for finished, but for what was judged with other weights than these."""
        for item, done in self.stored.pop(system, []):
            known = system_weights(done)
            if weights is not None and known and known != weights:
                self.again.append(item)
            else:
                now = _up_to_date(item, done, self.out)
                if now.checks != done.checks:
                    self.on_derived(done, now)
                self.results[item.cell.fingerprint] = now
                self.on_result(item, now, True)


def _answers_otherwise(path: Path, result: Result) -> bool:
    """Is there a record that this one must not simply be written over: of other code, data or weights, or a number?"""
    if not path.exists():
        return False
    there = read_result(path)
    if there.fingerprint != result.fingerprint:
        return True
    return there.outcomes is not None and (there.outcomes, there.weights) != (result.outcomes, result.weights)


def _up_to_date(item: Planned, done: Result, out: Path) -> Result:
    """A stored result as it would be written now, without running anything: with every radius that it is asked for.

    One of other checks gets the flags that its evidence raises today.
    """
    now = with_flags(done) if done.evidence is not None and done.checks != checks_digest() else done
    if not set(item.budgets) <= set(now.budgets):  # a minimal-norm result serves every radius
        now = now.model_copy(update={"budgets": sorted({*now.budgets, *item.budgets})})
    if now is not done:
        write_text_atomically(result_path(out, item), write_text(now))
    return now


def _try(step: Step, workshop: Workshop, settings: Settings) -> None:
    try:
        with stopping.PluginCall():
            train(step, workshop, settings)
    except BaseException as error:  # remembered by the workshop: each cell that needs it fails
        stopping.pass_on(error)

"""A matrix as a graph: every shared step named once, in an order in which each step finds what it needs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robustbench_gan.base import stopping
from robustbench_gan.base.digests import digest_of
from robustbench_gan.base.files import keep_replaced, refuse_links, write_text_atomically
from robustbench_gan.base.redirect import aside
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.cell.prepare import train_attack
from robustbench_gan.cell.question import Planned
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.flags.derive import with_flags
from robustbench_gan.flags.identity import checks_digest
from robustbench_gan.leaderboard.labels import KINDS, Labels, short_labels
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.record import Cell, Result
from robustbench_gan.nouns.spec import Chain, Spec
from robustbench_gan.results.kept import are_kept, beside
from robustbench_gan.results.places import place, short
from robustbench_gan.results.stored import read_result, write_text
from robustbench_gan.results.systems import system_of, system_weights
from robustbench_gan.training.workshop import Workshop

Kind = Literal["classifier", "defense", "copy", "substitute", "attack", "cell"]
RunCell = Callable[[Planned, Workshop, Settings], Result]


@dataclass(frozen=True)
class Step:
    """One piece of work: what it is, a key of everything that decides it, and the keys it stands on."""

    kind: Kind
    label: str
    key: str
    needs: tuple[str, ...]
    planned: Planned


def steps_of(planned: Iterable[Planned]) -> list[Step]:
    """Every step of the cells that can be run, each shared one once, in an order that respects what it needs."""
    steps: dict[str, Step] = {}
    todo = [item for item in planned if not item.reason]
    called = labels_of(todo)
    for item in todo:
        needs: tuple[str, ...] = ()
        for kind, label, parts in _shared(item, called):
            key = _key(kind, parts, item)
            steps.setdefault(key, Step(kind, label, key, needs, item))
            needs = (key,)
        label = _label(item, called)
        steps[item.cell.fingerprint] = Step("cell", label, item.cell.fingerprint, needs, item)
    return list(steps.values())


def labels_of(planned: Iterable[Planned]) -> Labels:
    """Short names that tell all specs of these cells apart."""
    cells = [item.cell for item in planned]
    return Labels({kind: short_labels(getattr(cell, kind) for cell in cells) for kind in KINDS})


def _shared(item: Planned, called: Labels) -> list[tuple[Kind, str, list[str]]]:
    """The trained things a cell stands on, innermost first."""
    cell = item.cell
    base = [cell.dataset, cell.classifier]
    defense, learnt_from = called("defense", cell.defense), _reference(cell)
    name = f"{called('dataset', cell.dataset)} / {called('classifier', cell.classifier)}"
    chain: list[tuple[Kind, str, list[str]]] = [
        ("classifier", name, base),
        ("defense", f"{name} / {defense}", [*base, cell.defense]),
    ]
    if item.threat.copies:
        chain.append(("copy", f"{name} / {defense}", [*base, cell.defense]))
    attack = registry.load("attacks", Spec.of(cell.attack).name)
    info = info_of(attack)
    if cell.threat_name == "black-box" and info.needs != "nothing" and item.threat.substitute != "dynamic":
        asked = called("defense", learnt_from) if learnt_from == cell.defense else short(learnt_from)
        asked = "the classifier alone" if item.threat.oracle == "undefended" else asked
        label = f"{item.threat.model}, {item.threat.rounds} rounds, against {name} / {asked}"
        chain.append(("substitute", label, [*base, *_oracle(item), cell.threat]))
    if info.trained:
        goal = "every class" if attack.conditional else cell.goal
        attack_name = called("attack", cell.attack)
        label = f"{attack_name} {cell.norm} {cell.eps:g}, {goal}, {cell.threat_name} {name} / {defense}"
        where = [_core(cell)] if cell.threat_name == "gray-box" else [cell.defense, cell.threat]
        chain.append(("attack", label, [*base, *where, cell.attack, goal, cell.norm, repr(cell.eps)]))
    return chain


def _core(cell: Cell) -> str:
    """The part of a defense that a gray-box attacker trains on: what replaces the classifier, not what purifies."""
    chain = Chain.of(cell.defense)
    return "+".join(str(spec) for spec in chain if not registry.load("defenses", spec.name).purifies)


def _oracle(item: Planned) -> list[str]:
    """The defense that a substitute learns from; none where it asks the classifier alone, whatever stands in front."""
    return [] if item.threat.oracle == "undefended" else [_reference(item.cell)]


def _reference(cell: Cell) -> str:
    """The defense that answers a black-box attacker: the cell's own, unless a sweep pins one for all of its points."""
    return str(dict(Spec.of(cell.threat).params).get("reference", cell.defense))


def _key(kind: Kind, parts: list[str], item: Planned) -> str:
    alone = kind == "classifier" or (kind == "attack" and item.threat.name == "gray-box")
    alone = alone or (kind == "substitute" and not _oracle(item))
    relevant = ("data", "loader", "classifier", "train_seed") + (() if alone else ("defense",))
    identity = {name: item.cell.identity[name] for name in relevant}
    if kind == "substitute" and "reference" in item.cell.identity:
        identity["defense"] = item.cell.identity["reference"]
    return f"{kind}-{digest_of([*parts, json.dumps(identity, sort_keys=True)])}"


def _label(item: Planned, called: Labels) -> str:
    kinds = [called(kind, getattr(item.cell, kind)) for kind in called.telling("defense", "threat", "attack")]
    return f"{' / '.join(kinds)} {item.cell.norm} {item.cell.eps:g}"


def result_path(out: Path, item: Planned) -> Path:
    """Where a cell's result lies: one file a question, so that a newer answer takes the place of an older one."""
    return out / "results" / place(item.cell)


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
    on_step: Callable[[Step], None],
    on_result: Callable[[Planned, Result, bool], None],
    on_replaced: Callable[[Path], None] = lambda kept: None,
    on_derived: Callable[[Result, Result], None] = lambda before, now: None,
    run_cell: RunCell | None = None,
) -> list[Result]:
    """Run what is not finished, write each result as it comes, and return all of them in the order planned.

    `on_step` is told of each step before it starts, `on_result` of each result and whether it was already there.
    `run_cell` runs one cell and makes what it stands on, in this process by default; wherever it does, the answer must
    be the same.
    Whatever was finished stays on disk, however this ends: another answer to the same question, by other code, data or
    weights, is moved to OUT/replaced before it is written over, and `on_replaced` is told where to. What is stored of
    a system counts as finished only where its weights are those that this run judges the system with; flags that other
    checks raised are derived anew from its evidence, and `on_derived` is told of both records.
    """
    results: dict[str, Result] = {}
    stored: dict[tuple[str, ...], list[tuple[Planned, Result]]] = defaultdict(list)
    todo: list[Planned] = []
    again: list[Planned] = []

    def record(item: Planned) -> None:
        result = (run_cell or evaluate_cell)(item, workshop, settings)
        result = result.model_copy(update={"budgets": list(item.budgets)})
        path = result_path(out, item)
        refuse_links(path, out)
        if _answers_otherwise(path, result):
            on_replaced(keep_replaced(path, out))
            if result.adversarial is None and beside(path).exists():
                keep_replaced(beside(path), out)
                beside(path).unlink()
        write_text_atomically(path, write_text(result))
        on_result(item, result, False)
        results[item.cell.fingerprint] = result
        if result.outcomes is not None:
            settle(system_of(item.cell), system_weights(result))

    def settle(system: tuple[str, ...], weights: dict[str, str] | None = None) -> None:
        for item, done in stored.pop(system, []):
            known = system_weights(done)
            if weights is not None and known and known != weights:
                again.append(item)
            else:
                now = _up_to_date(item, done, out)
                if now.checks != done.checks:
                    on_derived(done, now)
                results[item.cell.fingerprint] = done = now
                on_result(item, done, True)

    def work(items: list[Planned]) -> None:
        for step in steps_of(items):
            if step.kind == "cell":
                on_step(step)
                record(step.planned)
            elif run_cell is None:  # who runs cells elsewhere makes there what they stand on
                on_step(step)
                _try(step, workshop, settings)

    for item in planned:
        done = finished(out, item, settings.keep is not None)
        if done is None:
            todo.append(item)
        else:
            stored[system_of(item.cell)].append((item, done))
    for system in [*stored]:
        if not any(system == system_of(item.cell) for item in todo if not item.reason):
            settle(system)
    for item in todo:
        if item.reason:
            record(item)
    work(todo)
    for system in [*stored]:
        settle(system)
    work(again)
    return [results[item.cell.fingerprint] for item in planned]


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

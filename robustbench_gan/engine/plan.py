"""A matrix as a graph: every shared step named once, in an order in which each step finds what it needs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robustbench_gan.base.digests import digest_of
from robustbench_gan.cell.question import Planned
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.leaderboard.labels import KINDS, Labels, short_labels
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.record import Cell
from robustbench_gan.nouns.spec import Chain
from robustbench_gan.results.places import place

Kind = Literal["classifier", "defense", "copy", "substitute", "attack", "cell"]


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
    base = [str(cell.dataset), str(cell.classifier)]
    behind = [*base, str(cell.defense)]
    defense, learnt_from = called("defense", cell.defense), _reference(item)
    name = f"{called('dataset', cell.dataset)} / {called('classifier', cell.classifier)}"
    chain: list[tuple[Kind, str, list[str]]] = [
        ("classifier", name, base),
        ("defense", f"{name} / {defense}", behind),
    ]
    if item.threat.copies:
        chain.append(("copy", f"{name} / {defense}", behind))
    attack = registry.load("attacks", cell.attack.name)
    info = info_of(attack)
    if cell.threat_name == "black-box" and info.needs != "nothing" and item.threat.substitute != "dynamic":
        asked = called("defense", learnt_from) if learnt_from == cell.defense else learnt_from.name
        asked = "the classifier alone" if item.threat.oracle == "undefended" else asked
        label = f"{item.threat.model}, {item.threat.rounds} rounds, against {name} / {asked}"
        chain.append(("substitute", label, [*base, *_oracle(item), str(cell.threat)]))
    if info.trained:
        goal = "every class" if attack.conditional else cell.goal
        attack_name = called("attack", cell.attack)
        label = f"{attack_name} {cell.norm} {cell.eps:g}, {goal}, {cell.threat_name} {name} / {defense}"
        where = [_core(cell)] if cell.threat_name == "gray-box" else [str(cell.defense), str(cell.threat)]
        chain.append(("attack", label, [*base, *where, str(cell.attack), goal, cell.norm, repr(cell.eps)]))
    return chain


def _core(cell: Cell) -> str:
    """The part of a defense that a gray-box attacker trains on: what replaces the classifier, not what purifies."""
    own = [spec for spec in cell.defense if not registry.load("defenses", spec.name).purifies]
    return str(Chain(tuple(own)))


def _oracle(item: Planned) -> list[str]:
    """The defense that a substitute learns from; none where it asks the classifier alone, whatever stands in front."""
    return [] if item.threat.oracle == "undefended" else [str(_reference(item))]


def _reference(item: Planned) -> Chain:
    """The defense that answers a black-box attacker: the cell's own, unless a sweep pins one for all of its points."""
    return item.reference or item.cell.defense


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

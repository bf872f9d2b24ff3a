"""How much of a defense's robustness is randomness: the same attack without and with the judge's seed, paired."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from robustbench_gan.leaderboard.flat import at_budget
from robustbench_gan.leaderboard.labels import Labels, escape, radius
from robustbench_gan.leaderboard.pipes import pipe_table
from robustbench_gan.nouns.record import Result
from robustbench_gan.nouns.spec import Chain, Classifier, Spec
from robustbench_gan.nouns.statistics import Interval, interval, worst_case

Z = 1.959964  # of a 95% interval
HEADING = "## How much of the robustness is randomness"
MEANING = """\
The same attack on the same images, judged on fresh seeds and on the very seeds it was made for. The difference is
what the attacker loses for not knowing the draws; what is left under known seeds needs another explanation. A
difference below 0 says that the attack with more knowledge did worse, so that it is not the best there is. The
interval of a difference is for pairs (after Agresti and Min 2005)."""
Pair = tuple[Result, Result]  # on fresh seeds, and on known ones


class Difference(NamedTuple):
    """One attack on one defense under fresh and under known seeds, of n images; `difference` is fresh - known.

    `attack` is None for the worst case over the attacks that stand in both.
    """

    dataset: Spec
    classifier: Classifier
    defense: Chain
    attack: Spec | None
    goal: str
    norm: str
    eps: float
    draws: int
    gradient: str
    fresh: Interval
    known: Interval
    difference: Interval


def differences(results: Iterable[Result]) -> list[Difference]:
    """Every pair of a white-box and a seed-known result that count and differ in the seed alone, sorted.

    Controls have no row. A defense with several attacks under one attacker has one more row for their worst case,
    over all attacks that stand in both.
    """
    results = [r for r in results if r.counts]
    known = {_pairing(r): r for r in results if r.cell.threat_name == "seed-known"}
    groups: dict[tuple[tuple[object, ...], float], list[Pair]] = defaultdict(list)
    for fresh in results:
        other = known.get(_pairing(fresh)) if fresh.cell.threat_name == "white-box" else None
        if other is not None:
            alike = tuple(part for part in _pairing(fresh) if part[0] not in ("attack", "eps"))
            for eps in fresh.budgets or [fresh.cell.eps]:
                groups[(*alike, _draws(fresh)), eps].append((fresh, other))
    found = []
    for (_, eps), pairs in groups.items():
        ordered = sorted(pairs, key=lambda pair: pair[0].cell.attack)
        alone = [pair for pair in ordered if not pair[0].control]
        found += [_difference([pair], eps, pair[0].cell.attack) for pair in alone]
        found += [_difference(ordered, eps, None)] if alone and len(ordered) > 1 else []
    return sorted(found, key=_order)


def _pairing(result: Result) -> tuple[tuple[str, object], ...]:
    """What two results of a pair share: all of the cell but its threat model's name, EOT draws and code."""
    cell = result.cell
    fields = [name for name in type(cell).model_fields if name not in ("threat", "identity")]
    return (
        *((name, getattr(cell, name)) for name in fields),
        *(p for p in cell.threat.params if p[0] != "draws"),
    )


def _draws(result: Result) -> int:
    return int(str(result.cell.threat.get("draws", 1)))


def _difference(pairs: Sequence[Pair], eps: float, attack: Spec | None) -> Difference:
    first, other = pairs[0]
    cell = first.cell
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    fresh, known = (worst_case(np.stack([at_budget(r, eps) for r in side])) for side in sides)
    shown = [interval(v, _seed_text(side, eps)) for v, side in zip((fresh, known), sides, strict=True)]
    return Difference(
        cell.dataset, cell.classifier, cell.defense, attack, cell.goal, cell.norm, eps, _draws(first),
        str(other.cell.threat.get("gradient", "")), shown[0], shown[1], paired(fresh - known),
    )  # fmt: skip


def _seed_text(side: Sequence[Result], eps: float) -> str:
    """What seeds a bootstrap where the same number stands elsewhere on the page, so that it has the same interval."""
    prints = sorted(r.cell.question for r in side)
    return prints[0] if len(prints) == 1 else ",".join([*prints, repr(eps)])


def paired(differences: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]]) -> Interval:
    """The mean of per-image differences in [-1, 1], (N,), with a 95% interval.

    Wald's after adding two images, as Agresti and Min (2005) do for matched proportions: half of one with +1, half of
    one with -1 and one with 0. So it has a width where all differences are equal, unlike a bootstrap.
    """
    values = np.asarray(differences, dtype=np.float64)
    n, mean = len(values), float(values.mean())
    centre = float(values.sum()) / (n + 2)
    variance = (float((values**2).sum()) + 1) / (n + 2) - centre**2
    half = Z * math.sqrt(variance / (n + 2))
    low, high = max(-1.0, min(centre - half, mean)), min(1.0, max(centre + half, mean))
    return Interval(value=mean, low=low, high=high, n=n)


def _order(row: Difference) -> tuple[object, ...]:
    where = (row.dataset, row.classifier, row.goal, row.norm, row.eps, row.defense, row.draws, row.gradient)
    return (*where, row.fresh.n, row.attack is None, str(row.attack or ""))


def section(results: Iterable[Result], labels: Labels) -> list[str]:
    """Markdown blocks: what the difference means and a table of all of them; none where there is no pair."""
    rows = differences(results)
    if not rows:
        return []
    header = [
        "defense",
        "attack",
        "budget",
        "gradient",
        "EOT draws",
        "fresh seeds",
        "seed known",
        "difference",
        "n",
    ]
    several = [len({getattr(row, name) for row in rows}) > 1 for name in ("dataset", "classifier", "goal")]
    extra = [name for name, more in zip(("dataset", "classifier", "goal"), several, strict=True) if more]
    return [HEADING, MEANING, pipe_table([*extra, *header], [_line(row, labels, extra) for row in rows])]


def _line(row: Difference, labels: Labels, extra: Sequence[str]) -> list[str]:
    texts = {"dataset": labels("dataset", row.dataset), "classifier": labels("classifier", row.classifier)}
    texts |= {"goal": row.goal}
    attack = "worst case over attacks" if row.attack is None else labels("attack", row.attack)
    names = [labels("defense", row.defense), attack, radius(row.norm, row.eps), row.gradient]
    cells = [escape(text) for text in [*(texts[name] for name in extra), *names]]
    return [*cells, str(row.draws), str(row.fresh), str(row.known), str(row.difference), str(row.fresh.n)]

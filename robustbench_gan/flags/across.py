"""Flags across the cells of a run: a pure function of its records. No torch.

Attacks are held against each other on the same images, sample by sample, by an exact sign test (McNemar's where each
image is yes or no). All comparisons of a run are one family: Holm's correction keeps the chance of any false alarm
among them at LEVEL. A difference that passes must also matter, by more than MARGIN.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from robustbench_gan.flags import thresholds as at
from robustbench_gan.flags.catalogue import flag
from robustbench_gan.flags.paired import at_least, chance_above, holm
from robustbench_gan.flags.question import HOLDS_DEFENSE
from robustbench_gan.flags.seen import CARRIED_OVER, Numbers, Seen, group_of, seen, shared
from robustbench_gan.nouns.spec import UNDEFENDED

if TYPE_CHECKING:
    from robustbench_gan.nouns.fields import Fact
    from robustbench_gan.nouns.flag import Flag, Severity
    from robustbench_gan.nouns.record import Result


@dataclass(frozen=True)
class Across:
    """A flag with the fingerprints of the cells that it concerns."""

    flag: Flag
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Findings:
    """What the cells of a run say of each other, from so many comparisons."""

    comparisons: int
    found: tuple[Across, ...]

    def of(self, result: Result) -> list[Flag]:
        """The flags that concern one cell."""
        return [one.flag for one in self.found if result.fingerprint in one.cells]

    @property
    def invalid(self) -> tuple[Across, ...]:
        """Those that make a number suspect."""
        return tuple(one for one in self.found if one.flag.severity == "invalid")


@dataclass(frozen=True)
class Comparison:
    """Does `accused` leave more standing than `witness`, though it should not?"""

    id: str
    severity: Severity
    accused: Seen
    witness: Seen


def across(results: Iterable[Result]) -> Findings:
    """Every flag across these cells, the same for any order of the results."""
    results = sorted(results, key=lambda r: r.cell.question)
    groups = defaultdict(list)
    for one in seen(results):
        groups[group_of(one.result)].append(one)
    comparisons = [q for members in groups.values() for rule in RULES for q in rule(members)]
    asked = [(q, *shared(q.accused, q.witness)) for q in comparisons]
    asked = [(q, a, b) for q, a, b in asked if len(a)]
    endless = [r for r in results if _is_endless(r)]
    chances = holm([*(chance_above(a, b) for _, a, b in asked), *map(_chance_of_failures, endless)])
    found = [_held(q, a, b, p, len(chances)) for (q, a, b), p in zip(asked, chances, strict=False)]
    found += [_fails(r, p, len(chances)) for r, p in zip(endless, chances[len(asked) :], strict=True)]
    raised = [one for one in found if one is not None]
    return Findings(
        len(chances), tuple(_clearest([*raised, *_implausible(results), *_not_adaptive(results)]))
    )


def _held(q: Comparison, accused: Numbers, witness: Numbers, p: float, comparisons: int) -> Across | None:
    high, low = float(accused.mean()), float(witness.mean())
    if p > at.LEVEL or high - low <= at.MARGIN:
        return None
    evidence: dict[str, Fact] = {
        "accuracy": round(high, 4), "against": round(low, 4), "witness": q.witness.name, "images": len(accused),
        "p": float(f"{p:.3g}"), "comparisons": comparisons,
    }  # fmt: skip
    return Across(flag(q.id, q.severity, **evidence), (q.accused.result.fingerprint,))


def _clearest(found: list[Across]) -> Iterator[Across]:
    """Of several witnesses against one cell the one with the largest gap, each flag once a cell; in a fixed order."""
    best: dict[tuple[str, tuple[str, ...]], Across] = {}
    for one in found:
        other = best.setdefault((one.flag.id, one.cells), one)
        if _gap(one.flag) > _gap(other.flag):
            best[one.flag.id, one.cells] = one
    order = ("invalid", "warning", "note")
    yield from sorted(best.values(), key=lambda a: (order.index(a.flag.severity), a.flag.id, a.cells))


def _gap(raised: Flag) -> float:
    return float(raised.evidence.get("accuracy", 0)) - float(raised.evidence.get("against", 0))


def _alike(one: Seen, other: Seen, *but: str) -> bool:
    """Same radius, and the same attack, threat model and goal but for those named."""
    a, b = one.result.cell, other.result.cell
    same = all(getattr(a, n) == getattr(b, n) for n in ("attack", "threat", "goal") if n not in but)
    return same and ("eps" in but or one.eps == other.eps)


def _pairs(members: list[Seen], *but: str) -> Iterator[tuple[Seen, Seen]]:
    """Accused and witness, alike but for those named; only a number that counts is a witness."""
    for one, other in product(members, members):
        if one.result is not other.result and other.result.counts and _alike(one, other, *but):
            yield one, other


def _steps(members: list[Seen]) -> Iterator[Comparison]:
    """Only where both were given the same gradients: BPDA may be weaker than a single step along the full one."""
    for one, other in _pairs(members, "attack"):
        if (one.steps or 0) > 1 and other.steps == 1 and one.result.gradients == other.result.gradients:
            yield Comparison("iterative-weaker-than-single-step", "invalid", one, other)


def _knowledge(members: list[Seen]) -> Iterator[Comparison]:
    for one, other in _pairs(members, "threat"):
        if one.white and one.aims and other.aims and other.result.cell.threat_name in CARRIED_OVER:
            yield Comparison("white-box-weaker-than-black-box", "invalid", one, other)


def _seed(members: list[Seen]) -> Iterator[Comparison]:
    for one, other in _pairs(members, "threat"):
        if (one.result.cell.threat_name, other.result.cell.threat_name) == ("seed-known", "white-box"):
            yield Comparison("seed-does-not-help", "warning", one, other)


def _scores(members: list[Seen]) -> Iterator[Comparison]:
    """Against the strongest gradient attack alone."""
    for asking in (s for s in members if s.asks and s.result.counts):
        rivals = [
            s for s in members
            if s.aims and s.result.cell.threat_name == "white-box" and _alike(s, asking, "attack", "threat")
        ]  # fmt: skip
        if rivals:
            strongest = min(rivals, key=lambda s: (s.accuracy, s.result.cell.question))
            yield Comparison("scores-beat-gradients", "warning", strongest, asking)


def _radii(members: list[Seen]) -> Iterator[Comparison]:
    """Neighbouring radii of one attack."""
    rows = defaultdict(list)
    for one in members:
        if not one.minimal:
            c = one.result.cell
            rows[c.attack, c.threat, c.goal, c.first, c.samples, c.judge_seeds].append(one)
    for row in rows.values():
        ordered = sorted(row, key=lambda s: s.eps)
        for small, large in pairwise(ordered):
            if small.result.counts:
                overshoots = large.result.control or large.steps == 1
                yield Comparison(
                    "accuracy-rises-with-eps", "warning" if overshoots else "invalid", large, small
                )


def _noise(members: list[Seen]) -> Iterator[Comparison]:
    for one, other in _pairs(members, "attack"):
        if one.white and one.aims and not one.result.control and other.result.control:
            yield Comparison("noise-beats-gradients", "invalid", one, other)


def _targets(members: list[Seen]) -> Iterator[Comparison]:
    for one, other in _pairs(members, "goal"):
        if one.result.cell.goal == "untargeted" != other.result.cell.goal:
            yield Comparison("targeted-beats-untargeted", "warning", one, other)


Rule = Callable[[list[Seen]], Iterator[Comparison]]
RULES: tuple[Rule, ...] = (_steps, _knowledge, _seed, _scores, _radii, _noise, _targets)


def _is_endless(result: Result) -> bool:
    """A white-box gradient attack without a bound, that may aim anywhere."""
    c, outcomes = result.cell, result.outcomes
    return (
        outcomes is not None
        and result.status in ("ok", "suspect")
        and c.eps == float("inf")
        and c.goal == "untargeted"
        and c.threat_name in HOLDS_DEFENSE
        and not result.control
        and any(outcomes.backward)
    )


def _failures(result: Result) -> tuple[int, int]:
    """Of the attackable images (right under some seed) those that no seed's example fooled, and all."""
    assert result.outcomes is not None
    attackable = result.outcomes.array("clean").any(axis=0)
    whole = (result.outcomes.array("robust") == result.outcomes.array("clean")).all(axis=0)
    return int((attackable & whole).sum()), int(attackable.sum())


def _chance_of_failures(result: Result) -> float:
    failed, tries = _failures(result)
    return at_least(failed, tries, at.UNBOUNDED_FAILURES)


def _fails(result: Result, p: float, comparisons: int) -> Across | None:
    failed, tries = _failures(result)
    if p > at.LEVEL or failed <= at.UNBOUNDED_FAILURES * tries:
        return None
    evidence = {"failed": failed, "of": tries, "p": float(f"{p:.3g}"), "comparisons": comparisons}
    return Across(flag("unbounded-attack-fails", **evidence), (result.fingerprint,))


def _implausible(results: list[Result]) -> Iterator[Across]:
    """Median size over attackable images, an image that was not won counting as infinitely far."""
    for result in (r for r in results if _is_endless(r) and r.cell.norm == "l2"):
        if result.cell.dataset.name != "mnist" or result.outcomes is None:
            continue
        clean, robust = result.outcomes.array("clean"), result.outcomes.array("robust")
        sizes = np.broadcast_to(np.asarray(result.outcomes.size, dtype=np.float64), clean.shape)
        needed = np.where(robust, np.inf, sizes)[clean]
        if len(needed) and float(np.median(needed)) > at.MNIST_CLASS_DISTANCE:
            evidence = {"median": round(float(np.median(needed)), 4), "bound": at.MNIST_CLASS_DISTANCE}
            yield Across(flag("implausible-distortion", **evidence), (result.fingerprint,))


def _not_adaptive(results: list[Result]) -> Iterator[Across]:
    """Defenses that no attacker who knows them has attacked, or dynamic ones through one gradient alone."""
    systems = defaultdict(list)
    for result in results:
        if result.counts and not result.control and result.cell.defense != UNDEFENDED:
            systems[result.cell.dataset, result.cell.classifier, result.cell.defense].append(result)
    for members in systems.values():
        adaptive = [r for r in members if r.cell.threat_name in HOLDS_DEFENSE and _aims(r)]
        cells = tuple(r.fingerprint for r in members)
        tried = sorted({g for r in adaptive for g in r.gradients})
        dynamic = any(f.id == "inference-time-optimisation" for r in members for f in r.flags)
        if not adaptive:
            threats = ", ".join(sorted({r.cell.threat_name for r in members}))
            yield Across(flag("no-adaptive-attack", threats=threats), cells)
        elif dynamic and (len(tried) < 2 or "bpda" not in tried):
            yield Across(flag("no-adaptive-attack", gradients=", ".join(tried) or "none"), cells)


def _aims(result: Result) -> bool:
    return bool(result.trained) or (result.outcomes is not None and any(result.outcomes.backward))


class Doubt(NamedTuple):
    """An invalid flag against a cell, and the accuracy of what contradicts it: 0 where that is no other attack."""

    id: str
    against: float


def doubts(findings: Findings) -> dict[str, list[Doubt]]:
    """The invalid flags of each cell that has some, by its fingerprint."""
    found: dict[str, list[Doubt]] = defaultdict(list)
    for one in findings.invalid:
        for cell in one.cells:
            found[cell].append(Doubt(one.flag.id, float(one.flag.evidence.get("against", 0.0))))
    return dict(found)


def invalid_flags(results: Iterable[Result], findings: Findings) -> list[str]:
    """The ids of every invalid flag of a run, of its cells and across them, sorted."""
    own = {f.id for r in results for f in r.flags if f.severity == "invalid"}
    return sorted(own | {one.flag.id for one in findings.invalid})

"""Results of one version: each question answered once, each row by one code, data and weights. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from robustbench_gan.base.errors import UsageError
from robustbench_gan.flags.identity import checks_digest
from robustbench_gan.leaderboard.questions import order, question
from robustbench_gan.nouns.record import Result
from robustbench_gan.results.systems import Version, system_of, system_weights

# Of two copies of one fingerprint the first of these stays: a doubt outlives its copy, an answer its absence.
PREFERENCE = ("suspect", "ok", "failed", "not applicable", "not run")


ATTACKERS = (
    "attack",
    "reference",
    "substitute",
)  # of a cell's hashes; the others are its system's, which one row must share


def of_other_checks(results: Iterable[Result]) -> str:
    """A line on results whose flags other checks than those of today derived; empty where there are none."""
    count = sum(bool(result.checks) and result.checks != checks_digest() for result in results)
    if not count:
        return ""
    return (
        f"flags of other checks: {count} results hold flags that another version derived; `rbg evaluate` of the same "
        "cells derives them anew from their evidence, and runs none"
    )


def one_a_question(found: Iterable[tuple[str, Result]]) -> list[Result]:
    """Sorted results without copies, from (where it came from, result). Raises UsageError for a stale one."""
    ordered = sorted(found, key=lambda pair: (PREFERENCE.index(pair[1].status), pair[0]))
    kept: dict[tuple[Any, ...], tuple[str, Result]] = {}
    for origin, result in ordered:
        first, other = kept.setdefault(question(result.cell), (origin, result))
        if other.fingerprint != result.fingerprint:
            one, two = sorted([(first, other), (origin, result)], key=lambda pair: pair[0])
            differing = _differing(one[1].cell.identity, two[1].cell.identity)
            raise _stale(one, two, differing, "answer the same question")
    _of_one_version(ordered)
    return sorted((result for _, result in kept.values()), key=order)


def versions(result: Result) -> list[tuple[tuple[str, ...], Version]]:
    """The hashes of the code, data and weights behind a result: of its system, and of its attack on that."""
    cell = result.cell
    system = system_of(cell)
    found = [
        (system, {name: text for name, text in cell.identity.items() if name not in ATTACKERS}),
        ((*system, str(cell.attack)), {"attack": cell.identity.get("attack", "")}),
        (
            (*system, "precision"),
            {f"{asked} computed as": became for asked, became in result.precision.items()},
        ),
    ]
    if trained := system_weights(result):
        found.append(((*system, "weights"), trained))
    return found


def _of_one_version(found: Iterable[tuple[str, Result]]) -> None:
    """Raise UsageError where two numbers of one row were made with different code, data or weights."""
    first: dict[tuple[str, ...], tuple[str, Result]] = {}
    for origin, result in sorted(found, key=lambda pair: pair[0]):
        for key, version in versions(result) if result.outcomes else ():
            other = first.setdefault(key, (origin, result))
            if (known := dict(versions(other[1]))[key]) != version:
                raise _stale(other, (origin, result), _differing(known, version), "judge the same system")


def _differing(one: Version, two: Version) -> str:
    return ", ".join(sorted(name for name in {*one, *two} if one.get(name) != two.get(name)))


def _stale(one: tuple[str, Result], two: tuple[str, Result], differing: str, what: str) -> UsageError:
    return UsageError(
        f"{one[0]} and {two[0]} {what} but differ in: {differing}. "
        "One is stale: run its command again, delete it, or restrict the leaderboard to the current matrix."
    )

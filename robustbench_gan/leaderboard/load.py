"""Reading a directory of results: every file validated, each question answered once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from robustbench_gan.base.errors import UsageError
from robustbench_gan.flags.identity import checks_digest
from robustbench_gan.nouns.record import SCHEMA_VERSION, Cell, Result
from robustbench_gan.results.places import place
from robustbench_gan.results.stored import read_stored
from robustbench_gan.results.systems import Version, system_of, system_weights

# Of two copies of one fingerprint the first of these stays: a doubt outlives its copy, an answer its absence.
PREFERENCE = ("suspect", "ok", "failed", "not applicable", "not run")
QUESTION = tuple(name for name in Cell.model_fields if name != "identity")
Say = Callable[[str], None]
ATTACKERS = (
    "attack",
    "reference",
    "substitute",
)  # of a cell's hashes; the others are its system's, which one row must share


def load_results(
    directory: Path,
    only: Collection[str] | None = None,
    current: Sequence[Result] = (),
    say: Say | None = None,
    strict: bool = False,
) -> list[Result]:
    """Read DIR/results/**/*.json (or DIR itself where it is named `results`), sorted, one result a question.

    A file must lie where its cell belongs. Records of an older schema hold no digest that would show an edit: they are
    converted in memory, which `say` is told of, and refused where `strict`. Flags are read as they are; `say` is told
    of those that other checks derived.

    `only` keeps the fingerprints of the current matrix and ignores the rest. `current` are results that are known to
    be of the present code: others of the same systems or attacks, made with other code, data or weights, are left
    out, and `say` is told how many. Without either, two such results are an error: nobody else can tell which one is
    stale. Raises UsageError that names the file at fault.
    """
    root = root_of(Path(directory))
    stored = {path: read_stored(path) for path in records_below(root)}
    for path, one in stored.items():
        check_place(path, root, one.result)
    older = [path for path, one in stored.items() if one.schema != SCHEMA_VERSION]
    if older and (strict or say is not None):
        said = (
            f"{len(older)} of {len(stored)} records are of an older schema without a digest, such as {older[0]}: "
            f"`rbg leaderboard convert {directory}` converts them."
        )
        if strict:
            raise UsageError(f"--strict: {said}")
        if say is not None:
            say(said)
    if say is not None and (told := of_other_checks([one.result for one in stored.values()])):
        say(f"{told}.")
    found = [(str(path), one.result) for path, one in stored.items()]
    kept = [(origin, r) for origin, r in found if only is None or r.fingerprint in only]
    made = {key: version for result in current for key, version in versions(result)}
    fresh = [
        (o, r) for o, r in kept if all(made.get(key, version) == version for key, version in versions(r))
    ]
    if say is not None and len(fresh) < len(kept):
        say(
            f"left out: {len(kept) - len(fresh)} results in {directory} that other code, data or weights of the same "
            "systems made; run their commands again, or delete them."
        )
    return one_a_question(fresh)


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
        ((*system, cell.attack), {"attack": cell.identity.get("attack", "")}),
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


def question(cell: Cell) -> tuple[Any, ...]:
    """What a cell asks, without the hashes of the code, data and weights that answered it."""
    return tuple(getattr(cell, name) for name in QUESTION)


def order(result: Result) -> tuple[Any, ...]:
    """The sort key of results: by what they ask, never by when or where they were made."""
    return (*question(result.cell), result.fingerprint)


def root_of(directory: Path) -> Path:
    """The directory of records in what a run wrote to. Raises UsageError where there is none."""
    inner = directory / "results"
    if inner.is_dir():
        return inner
    if directory.is_dir() and directory.resolve().name == "results":
        return directory
    raise UsageError(f"{directory} holds no directory `results`; give the directory that a run wrote to.")


def records_below(root: Path) -> list[Path]:
    """Every file that should be a record, sorted; hidden ones are none."""
    return sorted(path for path in root.rglob("*.json") if not path.is_dir() and not _hidden(path, root))


def check_place(path: Path, root: Path, result: Result) -> None:
    """Raise UsageError where a record lies elsewhere than its cell says.

    Those of several runs may be gathered, each below a folder of its own.
    """
    expected = place(result.cell)
    if path.relative_to(root).parts[-len(expected.parts) :] != expected.parts:
        raise UsageError(
            f"{path} is not where its cell belongs: expected {expected} below {root}. Move it there, or delete it."
        )


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _differing(one: Version, two: Version) -> str:
    return ", ".join(sorted(name for name in {*one, *two} if one.get(name) != two.get(name)))


def _stale(one: tuple[str, Result], two: tuple[str, Result], differing: str, what: str) -> UsageError:
    return UsageError(
        f"{one[0]} and {two[0]} {what} but differ in: {differing}. "
        "One is stale: run its command again, delete it, or restrict the leaderboard to the current matrix."
    )

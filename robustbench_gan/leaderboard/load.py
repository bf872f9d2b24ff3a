"""Reading a directory of results: every file validated, each question answered once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from robustbench_gan.errors import UsageError
from robustbench_gan.record import Cell, Result, read_result

# Of two copies of one fingerprint the first of these stays: a doubt outlives its copy, an answer its absence.
PREFERENCE = ("suspect", "ok", "failed", "not applicable", "not run")
QUESTION = tuple(name for name in Cell.model_fields if name != "identity")


def load_results(directory: Path, only: Collection[str] | None = None) -> list[Result]:
    """Read DIR/results/**/*.json (or DIR itself where it is named `results`), sorted, one result a question.

    `only` keeps the fingerprints of the current matrix and ignores the rest. Without it, two results that ask
    the same but were made with different code, data or weights are an error: nobody else can tell which one
    is stale. Raises UsageError that names the file at fault.
    """
    root = _root(Path(directory))
    paths = sorted(path for path in root.rglob("*.json") if path.is_file() and not _hidden(path, root))
    found = [(str(path), read_result(path)) for path in paths]
    return one_a_question((origin, r) for origin, r in found if only is None or r.fingerprint in only)


def one_a_question(found: Iterable[tuple[str, Result]]) -> list[Result]:
    """Sorted results without copies, from (where it came from, result). Raises UsageError for a stale one."""
    ordered = sorted(found, key=lambda pair: (PREFERENCE.index(pair[1].status), pair[0]))
    kept: dict[tuple[Any, ...], tuple[str, Result]] = {}
    for origin, result in ordered:
        first, other = kept.setdefault(question(result.cell), (origin, result))
        if other.fingerprint != result.fingerprint:
            raise _stale(*sorted([(first, other), (origin, result)], key=lambda pair: pair[0]))
    return sorted((result for _, result in kept.values()), key=order)


def question(cell: Cell) -> tuple[Any, ...]:
    """What a cell asks, without the hashes of the code, data and weights that answered it."""
    return tuple(getattr(cell, name) for name in QUESTION)


def order(result: Result) -> tuple[Any, ...]:
    """The sort key of results: by what they ask, never by when or where they were made."""
    return (*question(result.cell), result.fingerprint)


def _root(directory: Path) -> Path:
    inner = directory / "results"
    if inner.is_dir():
        return inner
    if directory.is_dir() and directory.resolve().name == "results":
        return directory
    raise UsageError(f"{directory} holds no directory `results`; give the directory that a run wrote to.")


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _stale(one: tuple[str, Result], two: tuple[str, Result]) -> UsageError:
    a, b = one[1].cell.identity, two[1].cell.identity
    differ = ", ".join(sorted(key for key in {*a, *b} if a.get(key) != b.get(key)))
    return UsageError(
        f"{one[0]} and {two[0]} answer the same question but differ in: {differ}. "
        "One is stale: delete it, or restrict the leaderboard to the current matrix."
    )

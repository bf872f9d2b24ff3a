"""Reading a directory of results: every file validated, each question answered once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from robustbench_gan.base.errors import UsageError
from robustbench_gan.leaderboard.versions import of_other_checks, one_a_question, versions
from robustbench_gan.nouns.record import SCHEMA_VERSION, Result
from robustbench_gan.results.places import place
from robustbench_gan.results.stored import Stored, read_stored

Say = Callable[[str], None]


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
    _tell_older(stored, directory, say, strict)
    if say is not None and (told := of_other_checks([one.result for one in stored.values()])):
        say(f"{told}.")
    found = [(str(path), one.result) for path, one in stored.items()]
    kept = [(origin, r) for origin, r in found if only is None or r.fingerprint in only]
    fresh = _of_versions(kept, current)
    if say is not None and len(fresh) < len(kept):
        say(
            f"left out: {len(kept) - len(fresh)} results in {directory} that other code, data or weights of the same "
            "systems made; run their commands again, or delete them."
        )
    return one_a_question(fresh)


def _tell_older(stored: Mapping[Path, Stored], directory: Path, say: Say | None, strict: bool) -> None:
    """Tell of records of an older schema. Raises UsageError for them where `strict`."""
    older = [path for path, one in stored.items() if one.schema != SCHEMA_VERSION]
    if not older:
        return
    said = (
        f"{len(older)} of {len(stored)} records are of an older schema without a digest, such as {older[0]}: "
        f"`rbg leaderboard convert {directory}` converts them."
    )
    if strict:
        raise UsageError(f"--strict: {said}")
    if say is not None:
        say(said)


def _of_versions(found: Iterable[tuple[str, Result]], current: Iterable[Result]) -> list[tuple[str, Result]]:
    """Those that the code, data and weights of `current` could have made, as far as these have any of theirs."""
    made = {key: version for result in current for key, version in versions(result)}
    return [
        (o, r) for o, r in found if all(made.get(key, version) == version for key, version in versions(r))
    ]


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

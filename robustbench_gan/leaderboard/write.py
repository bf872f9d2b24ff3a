"""A leaderboard written to a file: as a page, as CSV, as a picture."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import write_text_atomically
from robustbench_gan.leaderboard.figure import svg
from robustbench_gan.leaderboard.headline import tables
from robustbench_gan.leaderboard.labels import Labels
from robustbench_gan.leaderboard.load import load_results
from robustbench_gan.leaderboard.page import KNOWN_BY, markdown
from robustbench_gan.leaderboard.spreadsheet import csv_text, frame
from robustbench_gan.nouns.record import Result

KINDS = (".md", ".csv", ".svg")  # of files that a leaderboard is written to


def build(
    directory: Path,
    out: Path | None = None,
    only: Collection[str] | None = None,
    current: Sequence[Result] = (),
    say: Callable[[str], None] | None = None,
    strict: bool = False,
) -> Path:
    """Write the leaderboard of a directory's results to DIR/README.md, or to `out`, whole or not at all.

    An `out` that ends in .csv gets the flat rows instead of the page, one that ends in .svg a picture. `strict`
    refuses records of older schemas.
    `only` restricts it to some fingerprints, `current` keeps out what other code says of its systems, which `say` is
    told of. Returns the file written. Raises UsageError where there is nothing to show, a result cannot be read, or
    the file cannot be written.
    """
    path = Path(directory) / "README.md" if out is None else Path(out)
    if path.suffix.lower() not in KINDS:
        raise UsageError(f"--out {path}: cannot write a leaderboard of this kind; known: {', '.join(KINDS)}.")
    refuse_to_replace(path)
    results = load_results(directory, only, current, say, strict)
    if not results:
        raise UsageError(f"{directory} holds no results to show; run `rbg evaluate` first.")
    writers = {".md": markdown, ".csv": csv, ".svg": picture}
    write_text_atomically(path, writers[path.suffix.lower()](results))
    return path


def csv(results: Iterable[Result]) -> str:
    """The flat rows as CSV."""
    text: str = frame(results).map(csv_text).to_csv(index=False)
    return text


def picture(results: Iterable[Result]) -> str:
    """The worst cases of all defenses as one SVG, the same for any order of the results."""
    results = list(results)
    return svg(tables(results), Labels.among(results))


def refuse_to_replace(path: Path) -> None:
    """Raise UsageError where a page would take the place of a text that is no leaderboard, such as a project's own."""
    if path.suffix.lower() != ".md" or not path.is_file():
        return
    with path.open("rb") as file:
        start = file.read(4096)
    if start.strip() and KNOWN_BY.encode() not in start:
        raise UsageError(
            f"{path} was not written by this program and is not overwritten: give another --out, or move it away."
        )

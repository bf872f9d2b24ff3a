"""Finds the files of data sets that are not part of the package, or downloads them into the cache."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pooch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import CACHE_DIR, cache_dir

DATA_DIR = "RBG_DATA_DIR"
"""The environment variable naming a directory with one folder per data set."""

SYSTEM_DIR = Path("/usr/share/datasets")
"""Where packages of an operating system install data sets, one folder each."""

TIMEOUT_S = 30.0
"""How long a server may stay silent, in seconds."""

T = TypeVar("T")


@dataclass(frozen=True)
class Wanted:
    """Describes one file of a data set.

    Attributes:
        dataset: the name of the data set, and of its folder in every place.
        file: the name of the file.
        url: where it is published.
        unpacked: the name of a folder that serves as well as the file, if there is one.
        system_hint: how to get the file into the system directory, for the error message.
    """

    dataset: str
    file: str
    url: str
    unpacked: str = ""
    system_hint: str = ""


def obtain(wanted: Wanted, read: Callable[[Path], T]) -> T:
    """Read a file from the first place that has it, downloading it when none has.

    The places are `$RBG_DATA_DIR/<data set>`, `/usr/share/datasets/<data set>` and the cache. A file that is
    there but wrong is an error: going on to the next place would hide the damage.

    Args:
        wanted: the file.
        read: turns a path into the result; raises UsageError, naming the path, when the content is wrong.

    Returns:
        What `read` returned.

    Raises:
        UsageError: the file is found with a wrong content, or is found nowhere and cannot be downloaded.
    """
    found = _find(wanted)
    return _download(wanted, read) if found is None else _read_found(found, read)


def _read_found(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except OSError as error:
        raise UsageError(f"{path}: expected a file that can be read ({error})") from None
    except UsageError as error:
        raise UsageError(f"{error}; replace or delete it") from None


def _places(dataset: str) -> list[Path]:
    places = [SYSTEM_DIR / dataset, _cache_place(dataset)]
    chosen = os.environ.get(DATA_DIR)
    if not chosen:
        return places
    root = Path(chosen).expanduser()
    if not root.is_dir():
        raise UsageError(f"{DATA_DIR} is {chosen!r}: expected a directory with one folder per data set")
    return [root / dataset, *places]


def _cache_place(dataset: str) -> Path:
    return cache_dir() / "data" / dataset


def _find(wanted: Wanted) -> Path | None:
    names = [name for name in (wanted.file, wanted.unpacked) if name]
    candidates = (place / name for place in _places(wanted.dataset) for name in names)
    # os.path.lexists never raises, and it finds a broken link too: that is damage, not absence.
    return next((path for path in candidates if os.path.lexists(path)), None)


def _download(wanted: Wanted, read: Callable[[Path], T]) -> T:
    place = _cache_place(wanted.dataset)
    try:
        place.mkdir(parents=True, exist_ok=True)
        # A file gets its own name in the cache only once it is whole and its content is checked, so an
        # interrupted or damaged download is never taken for the real file.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=place) as scratch:
            staged = Path(scratch) / wanted.file
            fetch(wanted.url, staged)
            result = _read_download(wanted, staged, read)
            staged.replace(place / wanted.file)
            return result
    except OSError as error:  # the network errors of requests are OSErrors too
        raise UsageError(_nowhere(wanted, str(error))) from None


def _read_download(wanted: Wanted, staged: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(staged)
    except UsageError as error:
        raise UsageError(
            f"{wanted.url}: the download does not hold the expected data, and was discarded. Try again, or "
            f"put the file into {_cache_place(wanted.dataset)} yourself. ({error})"
        ) from None


def _nowhere(wanted: Wanted, reason: str) -> str:
    root = os.environ.get(DATA_DIR)
    state = f"now {root}" if root else "not set"
    hint = f" ({wanted.system_hint})" if wanted.system_hint else ""
    names = f"{wanted.file} or the folder {wanted.unpacked}" if wanted.unpacked else wanted.file
    return (
        f"{wanted.dataset}: {wanted.file} was not found and could not be downloaded ({reason}). Do one of: "
        f"(1) set {DATA_DIR} ({state}) to a directory with {names} in its folder {wanted.dataset}; "
        f"(2) put it into {SYSTEM_DIR / wanted.dataset}{hint}; "
        f"(3) put it into the cache, {_cache_place(wanted.dataset)} ({CACHE_DIR} moves it); "
        f"(4) go online, to download {wanted.url}"
    )


def fetch(url: str, target: Path) -> None:
    """Download `url` to the path `target`, showing progress on a terminal.

    Raises:
        OSError: the server cannot be reached, answers with an error or breaks off, or the disk is full.
    """
    with _Bar(target.name) as bar:
        download = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=TIMEOUT_S)
        download(url, str(target), None)


class _Bar:
    """Shows a download of pooch with rich: pooch sets `total` and calls `update`, `reset` and `close`."""

    def __init__(self, name: str) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: TaskID = self._progress.add_task(name, total=None)
        self._total = 0

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Also after an error, when pooch does not call close: the terminal must get its cursor back.
        self.close()

    @property
    def total(self) -> int:
        """Give the size of the download in bytes, 0 while it is unknown."""
        return self._total

    @total.setter
    def total(self, size: int) -> None:
        self._total = size
        self._progress.update(self._task, total=size or None)

    def update(self, size: int) -> None:
        """Count `size` more bytes."""
        self._progress.update(self._task, advance=size)

    def reset(self) -> None:
        """Count from zero again."""
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        """Take the bar off the terminal."""
        self._progress.stop()

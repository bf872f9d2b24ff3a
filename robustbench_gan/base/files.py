"""Files that are written whole or not at all. No torch."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import re
import stat
import time
import uuid
from pathlib import Path
from typing import BinaryIO

import platformdirs

from robustbench_gan.base.errors import Fatal, UsageError

CACHE_DIR = "RBG_CACHE_DIR"  # the environment variable that moves the cache
HOUR = 3600.0
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]{32}")
REPLACED = "replaced"  # the directory, beside `results`, of records that newer ones took the place of


def write_atomically(path: Path, data: bytes, *, overwrite: bool = True) -> None:
    """Write a file so that a kill at any moment leaves the old one, the new one or none, never a part.

    The permissions are those that the umask gives. With `overwrite=False` the first writer wins: a file that
    appeared meanwhile stays. Raises Fatal when the directory cannot be written or the disk is full;
    nothing that was there is lost.
    """
    temporary = path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, opened = _claimed(path.parent)
        with opened as file:  # open, and so claimed, until it is in its place
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if overwrite:
                temporary.replace(path)
            else:
                with contextlib.suppress(FileExistsError):
                    os.link(temporary, path)
    except OSError as error:
        raise Fatal(
            f"cannot write {path}: {error.strerror or error}. Free space or choose a writable directory; "
            "everything finished before is kept."
        ) from error
    finally:
        if temporary != path:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _claimed(directory: Path) -> tuple[Path, BinaryIO]:
    """A new temporary file that is locked while it is open, so that `remove_leftovers` lets it be."""
    while True:
        temporary = directory / f".tmp-{uuid.uuid4().hex}"
        file = temporary.open("xb")
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # taken for a leftover in the moment before it was locked


def remove_leftovers(directory: Path, *, below: bool = False) -> None:
    """Delete the temporary files of writes that were killed, in a directory or anywhere below it.

    Those of living writers are locked. Where the file system knows no locks, only those older than an hour go.
    """
    for path in directory.rglob(".tmp-*") if below else directory.glob(".tmp-*"):
        with contextlib.suppress(OSError):
            if _TEMPORARY.fullmatch(path.name) and stat.S_ISREG(path.lstat().st_mode) and _abandoned(path):
                path.unlink()


def _abandoned(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return time.time() - path.stat().st_mtime > HOUR
    return True


def refuse_links(path: Path, root: Path) -> None:
    """Raise Fatal where a file below `root`, or a directory on the way to it, is a symbolic link.

    What belongs into a directory is neither read nor written somewhere else.
    """
    for one in (path, *path.parents):
        if one == root:
            return
        if one.is_symlink():
            raise Fatal(
                f"{one} is a symbolic link: nothing in {root} is read or written through one. Remove the link, or give "
                "the directory that it leads to."
            )


def write_text_atomically(path: Path, text: str) -> None:
    """`write_atomically` for UTF-8 text."""
    write_atomically(path, text.encode())


def cache_dir() -> Path:
    """Where artifacts and downloads are kept: `$RBG_CACHE_DIR`, else the user's cache directory.

    Raises UsageError where something lies there that is no directory.
    """
    chosen = os.environ.get(CACHE_DIR)
    found = expanded(chosen) if chosen else Path(platformdirs.user_cache_dir("robustbench-gan"))
    if found.exists() and not found.is_dir():
        raise UsageError(
            f"{CACHE_DIR}={found} is no directory: set it to one, which is made where it is missing."
        )
    return found


def expanded(text: str) -> Path:
    """A path with `~` written out; as it stands where there is no such user, since a directory may be called so."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def no_file(path: Path) -> str:
    """Why something is no ordinary file, in words; empty for one. A pipe or a device would be read forever."""
    try:
        mode = path.stat().st_mode  # of what a link leads to
    except FileNotFoundError:
        return "there is no such file"
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return "" if stat.S_ISREG(mode) else f"it is {kinds.get(stat.S_IFMT(mode), 'a device')}"


def keep_replaced(path: Path, root: Path) -> Path:
    """Copy a file of ROOT that is about to be written anew to ROOT/replaced, at the same place below it.

    What was kept there before stays: a second one goes to ROOT/replaced/2, and so on. Returns where it is. Raises
    UsageError when it cannot be read or written.
    """
    try:
        data = path.read_bytes()
        for count in itertools.count(1):
            kept = root.joinpath(REPLACED, *([str(count)] if count > 1 else []), path.relative_to(root))
            if not kept.exists():
                write_atomically(kept, data, overwrite=False)
            if kept.read_bytes() == data:
                return kept
    except OSError as error:
        raise Fatal(f"cannot keep {path} before it is replaced: {error.strerror or error}.") from error
    raise AssertionError("numbers do not end")


def slug(text: str) -> str:
    """A file name made of any text: letters, digits, '.', '_' and '-' alone, never hidden, never empty."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "x"


def read_text(path: Path, limit: int) -> str:
    """The UTF-8 text of a regular file of at most `limit` bytes. Raises UsageError that says why it cannot be read."""
    if why := no_file(path):
        raise UsageError(f"cannot read {path}: {why}; expected an ordinary file.")
    if (size := path.stat().st_size) > limit:
        raise UsageError(
            f"cannot read {path}: it has {size:,} bytes, and none of its kind has more than {limit:,}."
        )
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {path}: it is no UTF-8 text (byte {error.start}).") from error

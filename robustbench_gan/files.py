"""Files that are written whole or not at all. No torch."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from robustbench_gan.errors import UsageError


def write_text_atomically(path: Path, text: str) -> None:
    """Replace a file so that a kill at any moment leaves the old one or the new one, never a part.

    Written as UTF-8 with the permissions that the umask gives. Raises UsageError when the directory cannot be
    written or the disk is full; the old file is then still there.
    """
    temporary = path.parent / f".tmp-{uuid.uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror or error}. Free space or choose a writable directory."
        ) from error
    finally:
        if temporary.is_file():
            temporary.unlink()

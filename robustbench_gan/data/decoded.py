"""Decoded images of large folders, kept in the cache: 60,000 files are read once, not at every command.

What is kept serves only while nothing that the file system knows of any file has changed: its name, size, times of
change (of content and of inode: copying and `touch` can set the first, never the second) and inode. Content decides
what the data are: a data set's digest is computed from the pixels, kept or not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL
import safetensors
import torch
from PIL import features
from safetensors.torch import load_file, save

from robustbench_gan.base.digests import code_of
from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import cache_dir, write_atomically
from robustbench_gan.data import pictures
from robustbench_gan.data.pictures import File, Pictures

LEAST = 2000
"""Images below which reading them again is as good."""

MOST = 1 << 30
"""Bytes of pixels above which nothing is kept."""

SETTLED_NS = 2_500_000_000
"""A file changed less than this before may change again without its times showing it: FAT counts in 2 seconds."""

State = tuple[int, ...]
"""What the file system knows of a file: size, times of change, inode and device."""


def state_of(found: os.stat_result) -> State:
    """The state of one file."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


def clear() -> None:
    """Delete all that is kept."""
    for path in (cache_dir() / "decoded").glob("*.safetensors"):
        path.unlink(missing_ok=True)


def kept(
    place: Path, files: Sequence[File], size: int, channels: int,
    look: Callable[[], dict[File, State]], make: Callable[[], Pictures],
) -> Pictures:  # fmt: skip
    """The decoded images of some files: the kept ones while all is as it was, else what `make` gives.

    `place` is the directory or .zip file that they lie in, `look` what the file system knows of them now.
    """
    if not LEAST <= len(files) <= MOST // (channels * size * size):
        return make()
    name = hashlib.sha256(os.fsencode(place.resolve()) + f"|{size}|{channels}".encode()).hexdigest()[:16]
    path = cache_dir() / "decoded" / f"{name}.safetensors"
    started, before = time.time_ns(), look()
    key = _key(files, before)
    if (found := _read(path, key)) is not None:
        return found
    made = make()
    newest = max(max(state[1], state[2]) for state in before.values())
    if newest < started - SETTLED_NS and look() == before:
        _write(path, key, made)
    return made


def _key(files: Sequence[File], states: dict[File, State]) -> str:
    """A hash of all that decides the pixels, but for the content of files whose state says that it is the same."""
    how = [PIL.__version__, features.version("jpg"), code_of(Path(pictures.__file__).read_bytes())]
    text = json.dumps([how, list(files), sorted(states.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path, key: str) -> Pictures | None:
    """What is kept under this key; None where there is nothing, something else or a damaged file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        if header.get("key") != key:
            return None
        images = load_file(path)["images"].numpy()
        whole = hashlib.sha256(images.data).hexdigest() == header["pixels"]
        clear = tuple(tuple(file) for file in json.loads(header["transparent"]))
    except (OSError, ValueError, KeyError, safetensors.SafetensorError):
        return None
    return Pictures(images, clear) if whole and images.dtype == np.uint8 else None


def _write(path: Path, key: str, made: Pictures) -> None:
    """Keep it; where there is no room, it is read again next time."""
    header = {
        "key": key,
        "pixels": hashlib.sha256(made.images.data).hexdigest(),
        "transparent": json.dumps(made.transparent),
    }
    with contextlib.suppress(UsageError, OSError, MemoryError):
        write_atomically(path, save({"images": torch.from_numpy(made.images)}, metadata=header))

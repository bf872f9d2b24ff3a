"""Store: trained artifacts by recipe, so that the same thing is never trained twice; and atomic files.

Nothing is ever unpickled: weights are safetensors, their recipe and facts JSON in the file's own header.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from robustbench_gan.errors import UsageError
from robustbench_gan.files import write_atomically

Recipe = Mapping[str, Any]
Build = Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]]


def cache_dir() -> Path:
    """Where artifacts and downloads are kept: $RBG_CACHE_DIR, else the user's cache directory."""
    return Path(os.environ.get("RBG_CACHE_DIR") or platformdirs.user_cache_dir("robustbench-gan"))


def recipe_key(kind: str, recipe: Recipe) -> str:
    """The name of an artifact: its kind and a hash of everything that decides its content."""
    text = json.dumps([kind, recipe], sort_keys=True, default=str)
    return f"{slug(kind)[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def slug(text: str) -> str:
    """A file name made of any text: letters, digits, '.', '_' and '-' alone, never hidden, never empty."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "x"


@dataclass(frozen=True)
class Artifact:
    """Stored tensors by name, with facts of their making (validation accuracy, seconds) and a content hash."""

    key: str
    tensors: Mapping[str, Tensor]
    info: Mapping[str, Any]
    digest: str


@dataclass
class Store:
    """A directory of artifacts. `used` holds those that this process has fetched, by key."""

    root: Path = field(default_factory=lambda: cache_dir() / "artifacts")
    used: dict[str, Artifact] = field(default_factory=dict)

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self.root / f"{slug(key)}.safetensors"

    def has(self, kind: str, recipe: Recipe) -> bool:
        """Is this artifact there already?"""
        return self.path(recipe_key(kind, recipe)).exists()

    def fetch(self, kind: str, recipe: Recipe, build: Build) -> Artifact:
        """The artifact of a recipe: loaded where it is stored, built, stored and then loaded where not.

        `build` returns tensors by name and facts as JSON-able values, to which the seconds it took are added.
        Two processes that build the same one at once both go on with the file of the first. Raises UsageError
        when a stored file is corrupt.
        """
        key = recipe_key(kind, recipe)
        if key in self.used:
            return self.used[key]
        path = self.path(key)
        if not path.exists():
            started = time.perf_counter()
            tensors, facts = build()
            info = {**facts, "build_seconds": time.perf_counter() - started}
            header = {"recipe": json.dumps(recipe, default=str), "info": json.dumps(info), "kind": kind}
            # Cloned, since safetensors refuses tensors that share memory (tied weights).
            flat = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
            write_atomically(path, save(flat, metadata=header), overwrite=False)
        self.used[key] = read_artifact(path, key)
        return self.used[key]

    def __iter__(self) -> Iterator[Path]:
        """Every stored artifact's file, sorted."""
        return iter(sorted(self.root.glob("*.safetensors")) if self.root.is_dir() else [])

    def clear(self) -> int:
        """Delete every artifact; returns how many there were."""
        paths = list(self)
        for path in paths:
            path.unlink()
        return len(paths)


def read_artifact(path: Path, key: str = "") -> Artifact:
    """Load one safetensors file with its facts. Raises UsageError when it is missing, corrupt or truncated."""
    try:
        tensors = load_file(path)
        info = json.loads(read_header(path).get("info", "{}"))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UsageError(
            f"cannot read weights {path}: {error}. Delete the file (it is rebuilt) or give another."
        ) from error
    return Artifact(key, tensors, info, content_digest(tensors))


def content_digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, types, shapes and values alone: a file's header also holds seconds, in any order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def read_header(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors."""
    with safetensors.safe_open(path, framework="pt") as file:
        return file.metadata() or {}

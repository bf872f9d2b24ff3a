"""Store: trained artifacts by recipe, so that the same thing is never trained twice; and atomic files.

Nothing is ever unpickled: weights are safetensors, their recipe and facts JSON in the file's own header. The package
brings some of them along, in `zoo/`: one is used only where its recipe is the requested one, value for value.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from robustbench_gan.base import machine
from robustbench_gan.base.errors import Fatal, UsageError
from robustbench_gan.base.files import cache_dir, no_file, remove_leftovers, slug, write_atomically
from robustbench_gan.base.formats import no_safetensors
from robustbench_gan.training import building

ZOO = Path(__file__).parents[1] / "zoo"
INDEX = "index.json"  # of a zoo: what each of its files must hold
CONTENT = "rbg-content"  # in a file's header: a hash of its tensors and of the rest of the header
AS_BUNDLED = "Install robustbench-gan again, or set RBG_ZOO=off to train what it brings along."
Recipe = Mapping[str, Any]
Build = Callable[[], tuple[Mapping[str, Tensor], Mapping[str, Any]]]


def zoo_dir() -> Path | None:
    """Where bundled artifacts lie: in the package, or in $RBG_ZOO; None where that is `off`."""
    chosen = os.environ.get("RBG_ZOO")
    return None if chosen == "off" else Path(chosen or ZOO)


def recipe_key(kind: str, recipe: Recipe) -> str:
    """The name of an artifact: its kind and a hash of everything that decides its content."""
    text = json.dumps([kind, recipe], sort_keys=True, default=str)
    return f"{slug(kind)[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@dataclass(frozen=True)
class Artifact:
    """Stored tensors by name, with facts of their making (validation accuracy, seconds) and a content hash."""

    key: str
    tensors: Mapping[str, Tensor]
    info: Mapping[str, Any]
    digest: str


@dataclass
class Store:
    """A directory of artifacts. `used` holds those that this process has fetched, by key.

    `zoo` is a second one, never written, that is looked into first: bundled weights are the same on every machine,
    so that whoever has this version judges with the same ones, whatever else was trained there before.
    """

    root: Path = field(default_factory=lambda: cache_dir() / "artifacts")
    used: dict[str, Artifact] = field(default_factory=dict)
    zoo: Path | None = field(default_factory=zoo_dir)

    def path(self, key: str) -> Path:
        """The file of a key in this store's own directory."""
        return self.root / f"{slug(key)}.safetensors"

    def stored(self, key: str) -> Path | None:
        """The file that serves a key: the bundled one, else the store's own; None where neither is there."""
        bundled = [] if self.zoo is None else [self.zoo / self.path(key).name]
        return next((path for path in [*bundled, self.path(key)] if path.exists()), None)

    def has(self, kind: str, recipe: Recipe) -> bool:
        """Is this artifact there already?"""
        return self.stored(recipe_key(kind, recipe)) is not None

    def fetch(self, kind: str, recipe: Recipe, build: Build) -> Artifact:
        """The artifact of a recipe: loaded where it is bundled or stored, built, stored and then loaded where not.

        `build` returns tensors by name and facts as JSON-able values, to which the seconds it took are added.
        What a killed process left of it (`checkpoint`) is taken up by `build`, and goes when it is stored.
        Two processes that build the same one at once both go on with the file of the first. Raises Fatal
        when a file is corrupt or does not hold what was stored: a bundled one what the zoo's index says of it, one of
        the user's what its own header says.
        """
        key = recipe_key(kind, recipe)
        if key in self.used:
            return self.used[key]
        path = self.stored(key)
        if path is None:
            path = self.path(key)
            remove_leftovers(self.root)
            remove_leftovers(building.directory(self.root))
            with building.being_built(self.root, key, build) as work:
                tensors, facts = build()
            info = {**facts, "build_seconds": work.seconds}
            header = {"recipe": json.dumps(recipe, default=str), "info": json.dumps(info), "kind": kind}
            header["hardware"] = json.dumps(trained_on(tensors))
            write_atomically(path, packed(tensors, header), overwrite=False)
        mend = "Delete the file: it is made anew."
        if self.zoo is not None and path.parent == self.zoo:
            mend = AS_BUNDLED
            _check_bundled(path)
        artifact = read_artifact(path, key, mend)
        _check_recipe(path, kind, recipe, mend)
        building.forget(self.root, key)
        self.used[key] = artifact
        return artifact

    def __iter__(self) -> Iterator[Path]:
        """Every stored artifact's file, sorted."""
        return iter(sorted(self.root.glob("*.safetensors")) if self.root.is_dir() else [])

    def clear(self) -> int:
        """Delete every artifact, and what is unfinished; returns how many there were."""
        building.forget(self.root)
        paths = list(self)
        for path in paths:
            path.unlink()
        return len(paths)


def trained_on(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The machine that tensors just trained lie on, and torch's version."""
    devices = [tensor.device for tensor in tensors.values() if tensor.device.type == "cuda"]
    return {**machine.described((devices or [torch.device("cpu")])[0]), "torch": torch.__version__}


def packed(tensors: Mapping[str, Tensor], header: Mapping[str, str], *, half: bool = False) -> bytes:
    """A safetensors file. With `half`, float32 is kept as float16 and the header says which names to widen.

    Raises UsageError for a value that float16 cannot hold.
    """
    widened = sorted(name for name, t in tensors.items() if half and t.dtype == torch.float32)
    # Cloned, since safetensors refuses tensors that share memory (tied weights).
    flat = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    flat |= {name: flat[name].half() for name in widened}
    lost = [n for n in widened if bool((torch.isfinite(tensors[n].cpu()) & ~torch.isfinite(flat[n])).any())]
    if lost:
        raise UsageError(
            f"{', '.join(lost)}: a value above 65504 does not fit in half precision; keep float32."
        )
    header = {**header, **({"widened": json.dumps(widened)} if widened else {})}
    read = {name: tensor.float() if name in widened else tensor for name, tensor in flat.items()}
    return save(flat, metadata={**header, CONTENT: _sealed(content_digest(read), header)})


def _sealed(digest: str, header: Mapping[str, str]) -> str:
    """A hash of a file's tensors, given by their own, and of all else that its header says."""
    rest = {name: text for name, text in header.items() if name != CONTENT}
    return hashlib.sha256(json.dumps([digest, rest], sort_keys=True).encode()).hexdigest()


def read_artifact(path: Path, key: str = "", mend: str = "Give another file.") -> Artifact:
    """Load one safetensors file with its facts, widened to the types it was trained in.

    Raises Fatal, which ends with how to `mend` it, when it is missing, corrupt or truncated.
    """
    try:
        if why := no_file(path) or no_safetensors(path):
            raise Fatal(why)
        tensors, header = load_file(path), read_header(path)
        info = json.loads(header.get("info", "{}"))
        tensors |= {name: tensors[name].float() for name in json.loads(header.get("widened", "[]"))}
    except (OSError, ValueError, KeyError, RecursionError, safetensors.SafetensorError) as error:
        raise Fatal(f"cannot read {path}: {error}. {mend}") from error
    digest = content_digest(tensors)
    if header.get(CONTENT, sealed := _sealed(digest, header)) != sealed:
        raise Fatal(f"{path} does not hold what was stored in it: it was edited or damaged. {mend}")
    return Artifact(key, tensors, info, digest)


def _check_recipe(path: Path, kind: str, recipe: Recipe, mend: str) -> None:
    """Raise Fatal where a file was given the name of another recipe than the one in its header."""
    header = read_header(path)
    there = [header.get("kind", kind), json.loads(header.get("recipe", "null"))]
    asked = [kind, json.loads(json.dumps(recipe, default=str))]
    if "recipe" in header and json.dumps(there, sort_keys=True) != json.dumps(asked, sort_keys=True):
        raise Fatal(f"{path} holds the weights of another recipe than its name says. {mend}")


def _check_bundled(path: Path) -> None:
    """Raise Fatal where a bundled file is not the one that its zoo's index was written for."""
    index = path.parent / INDEX
    try:
        state = index.stat()
        pinned = _pinned(index, (state.st_ino, state.st_mtime_ns)).get(path.stem)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        raise Fatal(f"cannot compare {path} with {index}: {error}. {AS_BUNDLED}") from error
    if found != pinned:
        said = f"has the SHA-256 {pinned}" if pinned else "knows nothing of it"
        raise Fatal(f"{path} is not the file that was bundled: {index.name} {said}. {AS_BUNDLED}")


@functools.lru_cache(maxsize=4)
def _pinned(index: Path, state: tuple[int, int]) -> dict[str, str]:
    """The hash that each file of a zoo must have, by key. Raises OSError and ValueError."""
    cards = json.loads(index.read_text(encoding="utf-8"))
    return {key: str(card.get("sha256", "")) for key, card in cards.items()}


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

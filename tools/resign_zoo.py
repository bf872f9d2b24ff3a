"""Carry bundled weights over a change of code that makes none of them different: the second half of resign.py.

A recipe holds hashes of the code that trained. This finds, for each artifact that the code now asks for and the zoo
lacks, the one whose recipe is the same but for such hashes and for the keys of what was carried over before it. Those
that trained in moments are trained anew, by the code before the change and by the code after it on one machine, since
another rounds otherwise, and must come out bit for bit, at least LEAST of them; where one does not, nothing is changed.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo import Peek, matrix_of, page, read_index, sha256, walk, write_index

from robustbench_gan.base.files import write_atomically, write_text_atomically
from robustbench_gan.engine.execute import train
from robustbench_gan.engine.plan import Step
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.training.store import (
    Artifact,
    Build,
    Recipe,
    Store,
    packed,
    read_artifact,
    read_header,
    recipe_key,
)
from robustbench_gan.training.workshop import Workshop

CODE = re.compile(r"(^|_)code$")  # the entries of recipes that are hashes of code
MOMENTS = 20.0  # seconds of training up to which an artifact is trained anew
LEAST = 4  # artifacts that are trained anew, where so many are carried over


@dataclass
class Carrying(Peek):
    """A store over a copy of the zoo that, asked for what it lacks, carries over what differs in code alone."""

    moved: dict[str, str] = field(default_factory=dict)  # old key to new

    def fetch(self, kind: str, recipe: Recipe, build: Build) -> Artifact:
        """What is stored, by now. Raises Missing where nothing in the zoo is the same but for its code."""
        key = recipe_key(kind, recipe)
        if key not in self.used and self.stored(key) is None:
            wanted = json.loads(json.dumps(recipe, default=str))
            for path in sorted(self._zoo.glob("*.safetensors")):
                header = read_header(path)
                if header["kind"] == kind and same_but_code(json.loads(header["recipe"]), wanted, self.moved):
                    self.moved[path.stem] = key
                    self._carry(path, key, {**header, "recipe": json.dumps(wanted)})
                    break
        return super().fetch(kind, recipe, build)

    def _carry(self, path: Path, key: str, header: Mapping[str, str]) -> None:
        """Write a file and its card anew under another key; the index has to know a file before it is taken."""
        new = path.with_name(f"{key}.safetensors")
        _rewrite(path, new, header)
        index = read_index(self._zoo)
        facts = {"recipe": json.loads(header["recipe"]), "bytes": new.stat().st_size, "sha256": sha256(new)}
        index[key] = index.pop(path.stem) | facts
        write_index(self._zoo, index)

    @property
    def _zoo(self) -> Path:
        assert self.zoo is not None
        return self.zoo


def same_but_code(old: Any, new: Any, moved: Mapping[str, str]) -> bool:
    """Are two recipes one but for hashes of code, and for the keys of what they stand on, `moved` from old to new?"""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(
            CODE.search(name) is not None or same_but_code(old[name], new[name], moved) for name in old
        )
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(same_but_code(a, b, moved) for a, b in zip(old, new, strict=True))
    if isinstance(old, str) and isinstance(new, str):  # a key may be made of several
        return "+".join(moved.get(part, part) for part in old.split("+")) == new
    return bool(old == new)


def _rewrite(old: Path, new: Path, header: Mapping[str, str]) -> None:
    """The same tensors under another recipe; the old file goes."""
    half = "widened" in header
    kept = {name: text for name, text in header.items() if name != "widened"}
    write_atomically(new, packed(read_artifact(old).tensors, kept, half=half))
    old.unlink()


@dataclass
class Again(Store):
    """A store that trains the artifacts in `anew`, and takes all others from the zoo."""

    anew: frozenset[str] = frozenset()

    def stored(self, key: str) -> Path | None:
        """The file that serves a key: never the bundled one of an artifact that is to be trained."""
        if key in self.anew:
            own = self.path(key)
            return own if own.exists() else None
        return super().stored(key)


def carried(zoo: Path) -> tuple[dict[str, str], list[tuple[Step, list[str]]]]:
    """Carry over what can be, in place; returns old keys to new, and the steps that asked for the new ones."""
    moved: dict[str, str] = {}
    return moved, steps_of_zoo(zoo, moved)


def trained_anew(zoo: Path, root: Path, steps: list[tuple[Step, list[str]]]) -> Iterator[str]:
    """Train into `root` those artifacts of the steps that take moments; each key as it is done."""
    index = read_index(zoo)
    anew = frozenset(
        key for _, keys in steps for key in keys if key in index and index[key]["training_seconds"] <= MOMENTS
    )
    store = Again(root, zoo=zoo, anew=anew)
    for step, keys in steps:
        if mine := [key for key in keys if key in anew]:
            train(step, Workshop(store, train_seed=int(step.planned.cell.identity["train_seed"])))
            yield from (
                key for key in mine if store.path(key).exists()
            )  # no other: it is for another processor


def before(root: Path, zoo: Path) -> int:
    """Train what takes moments by the present code, for a later comparison."""
    for key in trained_anew(zoo, root, steps_of_zoo(zoo)):
        print(f"trained: {key}", flush=True)
    return 0


def steps_of_zoo(zoo: Path, moved: dict[str, str] | None = None) -> list[tuple[Step, list[str]]]:
    """The steps of the matrices that the zoo serves, with the keys they ask for; `moved` takes what is carried over."""
    steps: list[tuple[Step, list[str]]] = []
    index = read_index(zoo)
    for name in sorted({name for card in index.values() for name in card["needed_by"]}):
        used = {Spec.parse(c["part_of"]["dataset"]).name for c in index.values() if name in c["needed_by"]}
        nowhere = zoo / "nothing-is-stored-here"
        store = Peek(nowhere, zoo=zoo) if moved is None else Carrying(nowhere, zoo=zoo, moved=moved)
        steps += [(step, keys) for step, keys in walk(matrix_of(name, used), store) if keys]
    return steps


def differing(
    zoo: Path, old: Path, moved: Mapping[str, str], steps: list[tuple[Step, list[str]]]
) -> Iterator[tuple[str, bool]]:
    """Of the artifacts carried over, those that trained in moments, each with whether it came out different.

    All that trained in moments are trained, as `before` did: one that was carried over may stand on one that was not.
    """
    was = {new: key for key, new in moved.items()}
    with tempfile.TemporaryDirectory() as root:
        store = Store(Path(root), zoo=None)
        for key in trained_anew(zoo, store.root, steps):
            if key not in was:
                continue
            once = read_artifact(
                old / f"{was[key]}.safetensors", mend="Train it with the code before the change."
            )
            yield key, read_artifact(store.path(key)).digest != once.digest


def carry(old: Path, zoo: Path, page_at: Path) -> dict[str, Any] | None:
    """Carry the zoo over, if what was trained anew agrees, and write its page; what is to be noted of it.

    None, with the zoo as it was, where an artifact did not come out the same or too few can tell.
    """
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "zoo"
        shutil.copytree(zoo, copy)
        moved, steps = carried(copy)
        checked: list[str] = []
        if not moved:
            print("nothing to carry over")
            return {"trained_anew": checked, "moved": moved}
        for key, different in differing(copy, old, moved, steps):
            print(f"{key}: {'comes out DIFFERENT' if different else 'the same, bit for bit'}", flush=True)
            checked.append(key)
            if different:
                return None
        if len(checked) < min(LEAST, len(moved)):
            print(f"{len(checked)} of {len(moved)} artifacts train in moments: too few to tell by")
            return None
        for key, new in moved.items():
            shutil.copyfile(copy / f"{new}.safetensors", zoo / f"{new}.safetensors")
            (zoo / f"{key}.safetensors").unlink()
        write_index(zoo, read_index(copy))
    write_text_atomically(page_at, page(read_index(zoo)))
    print(f"{len(moved)} artifacts carried over, {len(checked)} of them trained anew")
    return {"trained_anew": sorted(checked), "moved": dict(sorted(moved.items()))}

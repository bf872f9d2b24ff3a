"""The steps of a matrix that train something: which artifacts they ask for, and their training."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustbench_gan.base import machine
from robustbench_gan.base.errors import UsageError
from robustbench_gan.engine.execute import train
from robustbench_gan.engine.layout import lay_out
from robustbench_gan.engine.matrix import Matrix, preset_text, presets, read_matrix, read_matrix_file
from robustbench_gan.engine.plan import Step, steps_of
from robustbench_gan.training.device import pick_device
from robustbench_gan.training.store import Artifact, Build, Recipe, Store, recipe_key
from robustbench_gan.training.workshop import Workshop

ROOT = Path(__file__).resolve().parents[1]


class Missing(Exception):
    """A step asked for an artifact that is not stored."""


@dataclass
class Peek(Store):
    """A store that never trains: `asked` holds the key and kind of everything that was asked for, in order."""

    asked: dict[str, str] = field(default_factory=dict)

    def fetch(self, kind: str, recipe: Recipe, build: Build) -> Artifact:
        """What is stored. Raises Missing for what is not; its key is known all the same."""
        key = recipe_key(kind, recipe)
        self.asked.setdefault(key, kind)
        if key not in self.used and self.stored(key) is None:
            raise Missing(key)
        return super().fetch(kind, recipe, build)


def matrix_of(name: str, datasets: Collection[str] = ()) -> Matrix:
    """A preset, or a TOML file by its path from the repository's root; on some of its data sets where these are named.

    A data set that is not at hand then need not be loaded.
    """

    def read(overrides: dict[str, Any]) -> Matrix:
        if name in presets():
            return read_matrix(preset_text(name), f"preset {name}", overrides)
        return read_matrix_file(ROOT / name, overrides)

    kept = [str(spec) for spec in read({}).datasets if spec.name in datasets]
    return read({"datasets": kept} if kept else {})


@contextlib.contextmanager
def processor(*, bfloat16: bool) -> Iterator[None]:
    """Take this processor for one that multiplies bfloat16 itself, or for one that does not."""
    real = machine.multiplies_bfloat16
    machine.multiplies_bfloat16 = lambda device: bfloat16
    try:
        yield
    finally:
        machine.multiplies_bfloat16 = real


def processors(matrix: Matrix) -> tuple[bool, ...]:
    """Kinds of processors that need weights of their own: what is bfloat16 on one is float32 on another."""
    return (True, False) if "bf16" in matrix.model_dump_json() else (True,)


def walk(matrix: Matrix, store: Peek) -> Iterator[tuple[Step, list[str]]]:
    """Each shared step of a matrix with the keys that nothing before it asked for. Nothing is trained.

    A step that stands on a missing artifact yields the keys up to that one: those behind it are decided by it. All
    kinds of processors are gone through; who takes a step is on the one that it is for.
    """
    for kind in processors(matrix):
        with processor(bfloat16=kind):
            yield from _walk(matrix, store)


def _walk(matrix: Matrix, store: Peek) -> Iterator[tuple[Step, list[str]]]:
    workshop = Workshop(store, train_seed=matrix.train_seed)
    for step in steps_of(lay_out(matrix, workshop)):
        if step.kind != "cell":
            before = set(store.asked)
            try:
                train(step, workshop)
            except UsageError:
                raise
            except Exception as error:  # whatever a plugin makes of a missing part
                if not isinstance(error, Missing):
                    print(f"{step.kind} {step.label}: {type(error).__name__}: {error}", file=sys.stderr)
            yield step, [key for key in store.asked if key not in before]


def train_all(matrix: Matrix, device: str) -> list[str]:
    """Train what the shared steps of a matrix need, into the user's store and without the zoo; returns what failed.

    What is stored is not trained again, so that the same call goes on where it was stopped.
    """
    failed = []
    for kind in processors(matrix):
        with processor(bfloat16=kind):
            failed += _train_all(matrix, Workshop(Store(zoo=None), pick_device(device), matrix.train_seed))
    return failed


def _train_all(matrix: Matrix, workshop: Workshop) -> list[str]:
    failed = []
    steps = [step for step in steps_of(lay_out(matrix, workshop)) if step.kind != "cell"]
    for at, step in enumerate(steps, 1):
        started = time.perf_counter()
        try:
            train(step, workshop)
            said = f"{time.perf_counter() - started:.1f} s"
        except Exception as error:  # one that cannot be trained leaves the others alone
            said = f"{type(error).__name__}: {error}"
            failed.append(step.label)
        print(f"{at}/{len(steps)} {step.kind} {step.label}: {said}", flush=True)
    return failed

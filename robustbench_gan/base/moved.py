"""Modules that lie elsewhere since version 0.2: their old names still work in it, and warn. Costs nothing until asked.

The first place of each is the public one, which the warning names; the others hold what is not public.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = __name__.partition(".")[0]
MOVED = {
    "attack": ("contracts", "contracts.attacks"),
    "batching": ("contracts", "base.batching"),
    "budget": ("contracts", "nouns.budget"),
    "checkpoint": ("training", "training.checkpoint"),
    "defense": ("contracts", "contracts.defense", "contracts.composition"),
    "digests": ("training", "base.digests"),
    "door": ("models.door", "models.logits", "models.program"),
    "errors": ("contracts", "base.errors"),
    "outcome": ("contracts", "nouns.outcome"),
    "progress": ("training", "base.progress"),
    "registry": ("contracts", "nouns.registry", "nouns.spec"),
    "store": ("training", "training.store"),
    "threat": ("contracts", "contracts.threat", "contracts.view", "contracts.systems", "contracts.counts"),
    "workshop": ("training", "training.workshop"),
}  # fmt: skip
OUT_OF_ROOMS = {  # of a room that was one module before
    "models": {
        **dict.fromkeys(("Schedule", "Shape", "schedule_of", "trained"), "training"),
        **dict.fromkeys(("a", "b", "c", "d", "e", "f"), "models.defense_gan_2018"),
        **dict.fromkeys(("lenet", "small_cnn"), "models.convolutional"),
        "resnet18": "models.resnet",
    }
}


class Finder:
    """Finds the old modules, after all others have looked."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The spec of an old module."""
        package, _, old = name.rpartition(".")
        return ModuleSpec(name, self) if package == PACKAGE and old in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """An ordinary module serves."""

    def exec_module(self, module: ModuleType) -> None:
        """Give it what the new places hold. Warns in the line that imports it."""
        places = MOVED[module.__name__.rpartition(".")[2]]
        said = f"{module.__name__} goes with version 0.3: import its names from {PACKAGE}.{places[0]}"
        warnings.warn(said, DeprecationWarning, stacklevel=2)
        module.__getattr__ = lambda name: _looked_up(module.__name__, name, places)  # type: ignore[method-assign]


def _looked_up(old: str, name: str, places: tuple[str, ...]) -> Any:
    """What a name of an old module stands for."""
    for place in [] if name.startswith("__") else places:
        try:
            return getattr(importlib.import_module(f"{PACKAGE}.{place}"), name)
        except AttributeError:
            continue
    raise AttributeError(f"module {old!r} has no attribute {name!r}")


def out_of(package: str) -> Callable[[str], Any]:
    """The `__getattr__` of a room that was one module before: what lies elsewhere now, with a warning."""
    places = OUT_OF_ROOMS[package.rpartition(".")[2]]

    def asked(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        place = f"{PACKAGE}.{places[name]}"
        said = f"{package}.{name} goes with version 0.3: import it from {place}"
        warnings.warn(said, DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(place), name)

    return asked


def register() -> None:
    """Have the old names found."""
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.append(Finder())

"""Systems for a forecast: trained ones where they are stored, and untrained ones of the same shape where they are not.

Nothing is trained or written. A pass through fresh weights takes as long as one through trained ones.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from robustbench_gan.cell.question import stages_of
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.spec import Chain
from robustbench_gan.training.store import (
    INDEX,
    Artifact,
    Build,
    Recipe,
    Store,
    read_artifact,
    read_header,
    recipe_key,
)

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Workshop

KEY = re.compile(r"[\w.+-]+-[0-9a-f]{16}")  # of an artifact, which stands for the data and the seed behind it
UNTOLD = {
    "data",
    "seed",
}  # of a recipe: what a training's time does not hang on, where as many images are learnt from


class NoStandIn(Exception):
    """An artifact that is not stored, and whose training shows no network that could stand in for it."""


@dataclass
class StandIns(Store):
    """A store that is read alone: what is not in the one it stands for is the network as its training would begin.

    `absent` holds kind and recipe of each such artifact by its key.
    """

    real: Store = field(default_factory=Store)
    absent: dict[str, tuple[str, Recipe]] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store) -> StandIns:
        """One that stands for a store."""
        nowhere = (
            store.root / "forecast"
        )  # unfinished trainings lie below a store's directory: none is touched
        return cls(root=nowhere, zoo=None, real=store)

    def fetch(self, kind: str, recipe: Recipe, build: Build) -> Artifact:
        """The stored artifact or what stands in for it. Raises NoStandIn where there is neither."""
        key = recipe_key(kind, recipe)
        if key not in self.used:
            path = self.real.stored(key)
            if path is None:
                self.absent[key] = kind, recipe
            self.used[key] = (
                Artifact(key, untrained(build), {}, "") if path is None else read_artifact(path, key)
            )
        return self.used[key]


def untrained(build: Build) -> Mapping[str, Tensor]:
    """The weights, before any step, of the network that a `build` holds to train. Raises NoStandIn for none."""
    held = [
        value for value in inspect.getclosurevars(build).nonlocals.values() if isinstance(value, nn.Module)
    ]
    networks = [module for module in held if not isinstance(module, Defense)]
    inner = [
        one for one in networks if not any(other in one.modules() for other in networks if other is not one)
    ]
    cores = [module.core for module in held if isinstance(module, Defense)]
    for network in [*inner, *cores]:
        return network.state_dict()
    raise NoStandIn


def beside(workshop: Workshop) -> Workshop:
    """A workshop that makes the same systems without training any; data sets that are loaded are shared."""
    loaded = {key: made for key, made in workshop.memory.items() if key[0] in ("dataset", "loaded")}
    return replace(workshop, store=StandIns.of(workshop.store), memory=loaded)


@lru_cache(maxsize=1024)
def may_be_fitted(chain: Chain) -> bool:
    """Is fitting it known to train through the store alone? A stranger's code may do anything, and is left alone."""
    stages = zip(chain, stages_of(chain), strict=True)
    return all(
        registry.entry("defenses", spec.name).is_ours or kind_of(stage).fit is Defense.fit
        for spec, stage in stages
    )


def kind_of(stage: Defense | type[Defense]) -> type[Defense]:
    """The class of a stage."""
    return stage if isinstance(stage, type) else type(stage)


class Trainings:
    """How long trainings took that are stored or bundled, by what decides their time."""

    def __init__(self, store: Store, images: Mapping[str, int]) -> None:
        """`images` are the training images of the data sets at hand, by digest."""
        self.images = images
        self.seconds: dict[str, float] = {}
        for kind, recipe, seconds in (*_bundled(store), *_stored(store)):
            self.seconds[self._alike(kind, recipe)] = seconds

    def expected(self, kind: str, recipe: Recipe) -> float | None:
        """Seconds of a training with the same recipe, on as many images, from any seed; None where none is known."""
        return self.seconds.get(self._alike(kind, recipe))

    def _alike(self, kind: str, recipe: Recipe) -> str:
        known = json.loads(json.dumps(recipe, default=str))
        told = {name: _without_keys(value) for name, value in known.items() if name not in UNTOLD}
        size = self.images.get(str(known.get("data")), known.get("data"))
        return json.dumps([kind, size, told], sort_keys=True)


def _without_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_keys(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_keys(each) for each in value]
    return "*" if isinstance(value, str) and KEY.fullmatch(value) else value


def _bundled(store: Store) -> Iterator[tuple[str, Recipe, float]]:
    index = None if store.zoo is None else store.zoo / INDEX
    if index is not None and index.is_file():
        for card in json.loads(index.read_text(encoding="utf-8")).values():
            yield card["kind"], card["recipe"], card["training_seconds"]


def _stored(store: Store) -> Iterator[tuple[str, Recipe, float]]:
    for path in store:
        try:
            header = read_header(path)
            kind, recipe = header["kind"], json.loads(header["recipe"])
            yield kind, recipe, float(json.loads(header["info"])["build_seconds"])
        except Exception:  # a corrupt file says nothing; who needs it will be told
            continue

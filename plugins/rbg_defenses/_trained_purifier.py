"""What every purifier that is one trained network has in common: from the recipe to the frozen weights."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from rbg_defenses._pairs import InnerAttack
from rbg_defenses._turns import MEASURED, accuracies
from robustbench_gan.contracts import Dataset, Defense, Split, UsageError
from robustbench_gan.training import Schedule, Shape, Store, code_digest, device_of, freeze, fresh

RECIPE_VERSION = 1

Network = TypeVar("Network", bound=nn.Module)


class TrainedPurifier(Defense, ABC, Generic[Network]):
    """A network in front of the classifier, trained once on what an attack does to that classifier.

    A subclass gives its registered name as `kind`, the untrained `network`, how it learns, and the `choices` that
    decide it beside attack and schedule. `smallest` is the least number of pixels a side, `layout` how the
    network's weights lie in memory. Images to images of the same shape, and not random.
    """

    purifies = True
    kind: ClassVar[str]
    smallest: ClassVar[int] = 1
    layout: ClassVar[torch.memory_format] = torch.channels_last  # faster on a CPU

    def __init__(self, base: nn.Module, inner: InnerAttack, schedule: Schedule) -> None:
        super().__init__(base)
        self.inner, self.schedule = inner, schedule
        self.purifier: nn.Module = nn.Identity()
        self.keys: dict[str, str] = {}

    @abstractmethod
    def network(self, shape: Shape) -> Network:
        """The network with its first weights, drawn from torch's generator, for images of `shape`."""

    @abstractmethod
    def choices(self) -> dict[str, Any]:
        """The parameters that decide the training, those of attack and schedule excepted."""

    @abstractmethod
    def learn(self, network: Network, model: nn.Module, data: Dataset, seed: int) -> float:
        """Train a network in place against `model`, the frozen classifier; returns the seconds."""

    def examples(self, model: nn.Module, held: Split, seed: int) -> Tensor:
        """Attacked images of held-out ones, (N, C, H, W), on which the stored accuracies are measured."""
        return self.inner.on(model, held, seed)

    def recipe(self, data: Dataset, seed: int) -> dict[str, Any]:
        """Everything that decides the weights."""
        return {
            "recipe_version": RECIPE_VERSION,
            "code": code_digest(type(self)),
            **self.inner.recipe,
            "classifier": self.base_key,
            **self.choices(),
            "schedule": vars(self.schedule),
            "data": data.digest,
            "seed": seed,
        }

    def why_not(self, shape: Shape, classes: int) -> str:
        """The image must have as many pixels as the network halves."""
        if min(shape[1:]) >= self.smallest:
            return ""
        return f"{self.kind} needs images of {self.smallest} pixels a side or more, not {shape[1]}x{shape[2]}"

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        """Train the network against the classifier at hand, or load it."""
        if why := self.why_not(data.shape, len(data.classes)):
            raise UsageError(f"{why}.")
        # What `fresh` gives back is what `network` made.
        network: Network = fresh(lambda: self.network(data.shape), seed)  # type: ignore[assignment]
        network.to(device_of(self.base), memory_format=self.layout)  # type: ignore[call-overload]
        artifact = store.fetch(self.kind, self.recipe(data, seed), lambda: self._build(network, data, seed))
        network.load_state_dict(dict(artifact.tensors))
        self.purifier = freeze(network)
        self.keys = {"purifier": artifact.key}

    def training_keys(self) -> dict[str, str]:
        """The key of the network."""
        return self.keys

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """The network's image, in [0, 1]."""
        purified: Tensor = self.purifier(x)
        return purified

    def parts(self) -> dict[str, nn.Module]:
        """The network, images to images, as `purifier`."""
        return {"purifier": self.purifier}

    def _build(
        self, network: Network, data: Dataset, seed: int
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        model = freeze(copy.deepcopy(self.base))  # the classifier's own weights keep their gradients
        seconds = self.learn(network, model, data, seed)
        held = data.validation.take(slice(0, MEASURED))
        facts = accuracies(model, network.eval(), held, self.examples(model, held, seed))
        return network.state_dict(), {**facts, "seconds": seconds}

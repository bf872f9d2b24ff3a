"""Trained networks on real images for parity and benchmarks: one on MNIST, one on colour images.

The colour images are MNIST digits in one random colour on a ground of another. RBG_TEST_COLOUR names a data set to
take instead (`folder:path=...`), and RBG_TEST_STORE a directory to keep the trained weights in between runs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robustbench_gan.base.digests import module_digest
from robustbench_gan.data.dataset import Dataset, Split
from robustbench_gan.models.convolutional import small_cnn
from robustbench_gan.models.schedule import schedule_of
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.seeds import fold, uniform
from robustbench_gan.nouns.spec import Spec, as_params
from robustbench_gan.training.loop import classifier_recipe, train_classifier
from robustbench_gan.training.networks import freeze, fresh
from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import Workshop

FIRST = 2000  # no constant of an attack was chosen on the images from here on


@dataclass(frozen=True)
class Trained:
    """A frozen classifier and the test images and labels that it is attacked on."""

    model: nn.Module
    x: Tensor
    y: Tensor

    def take(self, count: int) -> tuple[Tensor, Tensor]:
        """The first images that the classifier gets right, (count, C, H, W), and their labels."""
        with torch.no_grad():
            right = torch.nonzero(self.model(self.x).argmax(dim=1) == self.y)[:count, 0]
        assert len(right) == count
        return self.x[right].clone(), self.y[right].clone()


def store_of(default: Path) -> Store:
    """The store of RBG_TEST_STORE, or one at `default`."""
    return Store(Path(os.environ.get("RBG_TEST_STORE") or default))


def mnist_cnn(default: Path, count: int = 1000, named: str = "small-cnn") -> Trained:
    """A classifier of MNIST trained by the project's own recipe, and test images."""
    workshop = Workshop(store_of(default))
    model, _ = workshop.classifier("mnist", canonical(named))
    x, y = workshop.images("mnist", FIRST, count)
    return Trained(model, x, y)


def canonical(name: str) -> str:
    """The model's spec with every parameter written out, as recipes have it."""
    return str(Spec(name, as_params(registry.resolve("models", Spec(name))[1])))


def colour_cnn(default: Path, count: int = 1000) -> Trained:
    """A small-cnn on 32x32 colour images, and test images."""
    named = os.environ.get("RBG_TEST_COLOUR")
    data = Workshop(store_of(default)).dataset(named) if named else coloured_mnist()
    model = fresh(lambda: small_cnn(data.shape, len(data.classes)), 0)
    schedule = schedule_of(small_cnn)
    recipe = classifier_recipe("small-cnn", schedule, data, 0, module_digest(small_cnn))

    def build() -> tuple[dict[str, Tensor], dict[str, float]]:
        info = train_classifier(model, data, schedule, seed=0, description="training the colour model")
        return model.state_dict(), info

    model.load_state_dict(dict(store_of(default).fetch("classifier", recipe, build).tensors))
    split = data.test.take(slice(FIRST, FIRST + count))
    return Trained(freeze(model), split.pixels(), split.labels)


def coloured_mnist(train: int = 20000) -> Dataset:
    """MNIST on 32x32 pixels, digit and ground each in a random colour: (3, 32, 32) images of ten classes."""
    build, params = registry.resolve("datasets", Spec.parse("mnist"))
    data = build(**params)
    return Dataset(
        "coloured-mnist", data.classes, _coloured(data.train.take(slice(0, train)), 1),
        _coloured(data.validation.take(slice(0, 1000)), 2), _coloured(data.test, 3),
    )  # fmt: skip


def _coloured(split: Split, seed: int) -> Split:
    each = fold(torch.arange(len(split)), "colours", seed)
    colours = uniform(each, (2, 3, 1, 1))
    digit = nn.functional.pad(split.pixels(), (2, 2, 2, 2))
    images = digit * colours[:, 0] + (1 - digit) * (colours[:, 1] * 0.5)
    return Split((images * 255).round().to(torch.uint8), split.labels)

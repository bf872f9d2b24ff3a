"""Reference classifiers: A to F of the Defense-GAN paper (Table 5) and friends.

A factory maps (image shape, number of classes) to a module that takes (N, C, H, W) in [0, 1] and gives logits
(N, K). Normalisation, where a model wants it, is its first layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

Shape = tuple[int, int, int]
Dropout = Literal["drop", "keep"]


@dataclass(frozen=True)
class Schedule:
    """How a classifier is trained: Adam for `epochs` passes, at a one-cycle or a constant learning rate.

    The defaults are the Defense-GAN reference code's but for the cycle: at its constant rate model E ends at
    0.973 on MNIST, below the accuracy that the paper's models have.
    """

    epochs: int = 10
    batch_size: int = 50
    lr: float = 1e-3
    one_cycle: bool = True


F = TypeVar("F", bound=Callable[..., nn.Module])


def trained(schedule: Schedule) -> Callable[[F], F]:
    """Attach the standard training of a factory's classifiers."""

    def decorate(factory: F) -> F:
        factory.schedule = schedule  # type: ignore[attr-defined]
        return factory

    return decorate


def schedule_of(factory: Any) -> Schedule:
    """A factory's training, the paper's (Adam 1e-3, 10 epochs, batch 50) with a cycle, unless it states another."""
    found = getattr(factory, "schedule", Schedule())
    if not isinstance(found, Schedule):
        raise TypeError(f"{factory!r}.schedule is no Schedule")
    return found


def _drop(p: float, semantics: Dropout) -> nn.Dropout:
    """Dropout with the paper's number read as a drop or, as its reference code in fact does, a keep rate."""
    return nn.Dropout(p if semantics == "drop" else 1 - p)


def _with_head(features: nn.Sequential, shape: Shape, *head: Callable[[int], nn.Module]) -> nn.Sequential:
    """Append layers of which the first is given the number of features."""
    with torch.no_grad():
        width = features.eval()(torch.zeros(1, *shape)).shape[1]
    features.train()
    return nn.Sequential(*features, *(make(width) for make in head))


@trained(Schedule())
def a(shape: Shape, classes: int, *, dropout: Dropout = "drop") -> nn.Module:
    """Model A: two 5x5 convolutions of 64, a layer of 128 (Defense-GAN, Table 5)."""
    features = nn.Sequential(
        nn.Conv2d(shape[0], 64, 5, padding=2), nn.ReLU(),
        nn.Conv2d(64, 64, 5, stride=2), nn.ReLU(), nn.Flatten(), _drop(0.25, dropout),
    )  # fmt: skip
    return _with_head(features, shape, lambda n: nn.Linear(n, 128), lambda _: nn.ReLU(),
                      lambda _: _drop(0.5, dropout), lambda _: nn.Linear(128, classes))  # fmt: skip


def _b(shape: Shape, classes: int, first: nn.Module, last: nn.Module) -> nn.Module:
    features = nn.Sequential(
        first,
        nn.Conv2d(shape[0], 64, 8, stride=2, padding=3), nn.ReLU(),
        nn.Conv2d(64, 128, 6, stride=2), nn.ReLU(),
        nn.Conv2d(128, 128, 5), nn.ReLU(), nn.Flatten(), last,
    )  # fmt: skip
    return _with_head(features, shape, lambda n: nn.Linear(n, classes))


@trained(Schedule())
def b(shape: Shape, classes: int, *, dropout: Dropout = "drop") -> nn.Module:
    """Model B: dropout on the pixels, three convolutions of 64, 128, 128 (Defense-GAN, Table 5)."""
    return _b(shape, classes, _drop(0.2, dropout), _drop(0.5, dropout))


@trained(Schedule())
def c(shape: Shape, classes: int, *, dropout: Dropout = "drop") -> nn.Module:
    """Model C: convolutions of 128 (3x3) and 64 (5x5, as in the reference code), a layer of 128."""
    features = nn.Sequential(
        nn.Conv2d(shape[0], 128, 3, padding=1), nn.ReLU(),
        nn.Conv2d(128, 64, 5, stride=2), nn.ReLU(), nn.Flatten(), _drop(0.25, dropout),
    )  # fmt: skip
    return _with_head(features, shape, lambda n: nn.Linear(n, 128), lambda _: nn.ReLU(),
                      lambda _: _drop(0.5, dropout), lambda _: nn.Linear(128, classes))  # fmt: skip


def _mlp(shape: Shape, classes: int, first: nn.Module, second: nn.Module) -> nn.Module:
    inputs = shape[0] * shape[1] * shape[2]
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 200), nn.ReLU(), first,
        nn.Linear(200, 200), nn.ReLU(), second, nn.Linear(200, classes),
    )  # fmt: skip


@trained(Schedule())
def d(shape: Shape, classes: int, *, dropout: Dropout = "drop") -> nn.Module:
    """Model D: two layers of 200 with dropout after each (Defense-GAN, Table 5)."""
    return _mlp(shape, classes, _drop(0.5, dropout), _drop(0.5, dropout))


@trained(Schedule())
def e(shape: Shape, classes: int) -> nn.Module:
    """Model E: D without dropout, the paper's usual substitute (Defense-GAN, Table 5)."""
    return _mlp(shape, classes, nn.Identity(), nn.Identity())


@trained(Schedule())
def f(shape: Shape, classes: int) -> nn.Module:
    """Model F: B without dropout (Defense-GAN, Table 5)."""
    return _b(shape, classes, nn.Identity(), nn.Identity())


@trained(Schedule(epochs=6, batch_size=64, lr=2e-3))
def lenet(shape: Shape, classes: int) -> nn.Module:
    """LeNet-5 with ReLU and max-pooling (LeCun et al. 1998, in its modern form)."""
    features = nn.Sequential(
        nn.Conv2d(shape[0], 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    )  # fmt: skip
    return _with_head(features, shape, lambda n: nn.Linear(n, 120), lambda _: nn.ReLU(),
                      lambda _: nn.Linear(120, 84), lambda _: nn.ReLU(),
                      lambda _: nn.Linear(84, classes))  # fmt: skip


@trained(Schedule(epochs=4, batch_size=64, lr=4e-3))
def small_cnn(shape: Shape, classes: int) -> nn.Module:
    """Two strided 4x4 convolutions of 16 and 32, a layer of 100: fast (Wong and Kolter 2018)."""
    features = nn.Sequential(
        nn.Conv2d(shape[0], 16, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
    )  # fmt: skip
    return _with_head(features, shape, lambda n: nn.Linear(n, 100), lambda _: nn.ReLU(),
                      lambda _: nn.Linear(100, classes))  # fmt: skip


class Normalise(nn.Module):
    """(x - mean) / std, channel by channel, as a layer."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] to zero mean and unit deviation."""
        return (x - self.mean) / self.std


class Residual(nn.Module):
    """A basic residual block of two 3x3 convolutions (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        return torch.relu(self.body(x) + self.skip(x))


@trained(Schedule(epochs=30, batch_size=128, lr=1e-3))
def resnet18(shape: Shape, classes: int, *, width: int = 64) -> nn.Module:
    """ResNet-18 for small colour images: a 3x3 stem and no pooling before the blocks (He et al. 2016)."""
    channels = shape[0]
    blocks: list[nn.Module] = []
    inputs = width
    for at, outputs in enumerate((width, 2 * width, 4 * width, 8 * width)):
        blocks += [Residual(inputs, outputs, 1 if at == 0 else 2), Residual(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(
        Normalise((0.5,) * channels, (0.25,) * channels),
        nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes),
    )  # fmt: skip

"""Classifiers A to F of the Defense-GAN paper (Samangouei et al. 2018, Table 5)."""

from __future__ import annotations

from typing import Literal

from torch import nn

from robustbench_gan.models.layers import with_head
from robustbench_gan.models.schedule import Schedule, Shape, trained

Dropout = Literal["drop", "keep"]


def _drop(p: float, semantics: Dropout) -> nn.Dropout:
    """Dropout with the paper's number read as a drop or, as its reference code in fact does, a keep rate."""
    return nn.Dropout(p if semantics == "drop" else 1 - p)


@trained(Schedule())
def a(shape: Shape, classes: int, *, dropout: Dropout = "drop") -> nn.Module:
    """Model A: two 5x5 convolutions of 64, a layer of 128 (Defense-GAN, Table 5)."""
    features = nn.Sequential(
        nn.Conv2d(shape[0], 64, 5, padding=2), nn.ReLU(),
        nn.Conv2d(64, 64, 5, stride=2), nn.ReLU(), nn.Flatten(), _drop(0.25, dropout),
    )  # fmt: skip
    return with_head(features, shape, lambda n: nn.Linear(n, 128), lambda _: nn.ReLU(),
                      lambda _: _drop(0.5, dropout), lambda _: nn.Linear(128, classes))  # fmt: skip


def _b(shape: Shape, classes: int, first: nn.Module, last: nn.Module) -> nn.Module:
    features = nn.Sequential(
        first,
        nn.Conv2d(shape[0], 64, 8, stride=2, padding=3), nn.ReLU(),
        nn.Conv2d(64, 128, 6, stride=2), nn.ReLU(),
        nn.Conv2d(128, 128, 5), nn.ReLU(), nn.Flatten(), last,
    )  # fmt: skip
    return with_head(features, shape, lambda n: nn.Linear(n, classes))


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
    return with_head(features, shape, lambda n: nn.Linear(n, 128), lambda _: nn.ReLU(),
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

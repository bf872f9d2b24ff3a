"""Small convolutional classifiers: LeNet and the one of the quick preset."""

from __future__ import annotations

from torch import nn

from robustbench_gan.models.layers import with_head
from robustbench_gan.models.schedule import Schedule, Shape, trained


@trained(Schedule(epochs=6, batch_size=64, lr=2e-3))
def lenet(shape: Shape, classes: int) -> nn.Module:
    """LeNet-5 with ReLU and max-pooling (LeCun et al. 1998, in its modern form)."""
    features = nn.Sequential(
        nn.Conv2d(shape[0], 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
    )  # fmt: skip
    return with_head(features, shape, lambda n: nn.Linear(n, 120), lambda _: nn.ReLU(),
                      lambda _: nn.Linear(120, 84), lambda _: nn.ReLU(),
                      lambda _: nn.Linear(84, classes))  # fmt: skip


@trained(Schedule(epochs=4, batch_size=64, lr=4e-3))
def small_cnn(shape: Shape, classes: int) -> nn.Module:
    """Two strided 4x4 convolutions of 16 and 32, a layer of 100: fast (Wong and Kolter 2018)."""
    features = nn.Sequential(
        nn.Conv2d(shape[0], 16, 4, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
    )  # fmt: skip
    return with_head(features, shape, lambda n: nn.Linear(n, 100), lambda _: nn.ReLU(),
                      lambda _: nn.Linear(100, classes))  # fmt: skip

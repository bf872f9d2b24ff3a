"""ResNet-18 for images of 32 x 32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_gan.models.schedule import Schedule, Shape, trained


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

"""The networks of APE-GAN: the purifier and its discriminator, in the author's form and in that of the first port."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gan.training import Shape

Architecture = Literal["author", "port"]


class Purifier(nn.Module):
    """The generator: two strided convolutions, two transposed ones, tanh; (N, C, H, W) in [0, 1] to the same.

    `author` has 5x5 kernels padded as TensorFlow does, and works on pixels in [-1, 1]. `port` (owruby/APE-GAN) has
    4x4 kernels, leaks by 0.01, also after the first transposed convolution, and feeds pixels in [0, 1] to a network
    that ends in a tanh: what it makes below 0 is cut off. H and W are multiples of 4.
    """

    def __init__(self, shape: Shape, width: int, architecture: Architecture) -> None:
        super().__init__()
        channels, self.signed = shape[0], architecture == "author"
        self.kernel = 5 if self.signed else 4
        self.down1 = nn.Conv2d(channels, width, self.kernel, stride=2)
        self.norm1 = nn.BatchNorm2d(width)
        self.down2 = nn.Conv2d(width, 2 * width, self.kernel, stride=2)
        self.norm2 = nn.BatchNorm2d(2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, self.kernel, stride=2, padding=1)
        self.norm3 = nn.BatchNorm2d(width)
        self.up2 = nn.ConvTranspose2d(width, channels, self.kernel, stride=2, padding=1)
        if self.signed:
            drawn_as_dcgan(self)

    def forward(self, x: Tensor) -> Tensor:
        """The purified images, in [0, 1]."""
        return to_pixels(self.raw(x), self.signed).clamp(0, 1)

    def raw(self, x: Tensor) -> Tensor:
        """The same in the range that the network was trained in: the tanh's own, (-1, 1)."""
        slope, pad = (0.2, (1, 2, 1, 2)) if self.signed else (0.01, (1, 1, 1, 1))
        h = F.pad(to_range(x, self.signed), pad)
        h = F.leaky_relu(self.norm1(self.down1(h)), slope)
        h = F.leaky_relu(self.norm2(self.down2(F.pad(h, pad))), slope)
        h = F.leaky_relu(self.norm3(self._doubled(self.up1, h)), 0.0 if self.signed else slope)
        return torch.tanh(self._doubled(self.up2, h))

    def _doubled(self, up: nn.Module, h: Tensor) -> Tensor:
        """Twice the side; a 5x5 kernel makes one row and one column more, which TensorFlow leaves off."""
        made: Tensor = up(h)
        return made[:, :, : 2 * h.shape[2], : 2 * h.shape[3]]


class Discriminator(nn.Module):
    """Images in the network's range to the logit of being real, (N,): three strided convolutions and a layer."""

    def __init__(self, shape: Shape, width: int, architecture: Architecture) -> None:
        super().__init__()
        self.signed = architecture == "author"
        kernel = 5 if self.signed else 3
        self.downs = nn.ModuleList(
            nn.Conv2d(i, o, kernel, stride=2)
            for i, o in ((shape[0], width), (width, 2 * width), (2 * width, 4 * width))
        )
        self.norms = nn.ModuleList([nn.Identity(), nn.BatchNorm2d(2 * width), nn.BatchNorm2d(4 * width)])
        height, wide = (self._side(n) for n in shape[1:])
        self.last = nn.Linear(4 * width * height * wide, 1)
        if self.signed:
            drawn_as_dcgan(self)

    def _side(self, n: int) -> int:
        for _ in range(3):
            n = -(-n // 2) if self.signed else (n - 3) // 2 + 1
        return n

    def forward(self, x: Tensor) -> Tensor:
        """Logits, positive for what looks real."""
        for down, norm in zip(self.downs, self.norms, strict=True):
            if self.signed:  # TensorFlow's padding: as little before as after, the odd one after
                x = F.pad(x, (*_padding(x.shape[3]), *_padding(x.shape[2])))
            x = F.leaky_relu(norm(down(x)), 0.2 if self.signed else 0.01)
        logits: Tensor = self.last(x.flatten(1))
        return logits[:, 0]


def to_range(x: Tensor, signed: bool) -> Tensor:
    """Pixels in [0, 1] to [-1, 1], where the network is `signed`."""
    return 2 * x - 1 if signed else x


def to_pixels(x: Tensor, signed: bool) -> Tensor:
    """The inverse of `to_range`."""
    return (x + 1) / 2 if signed else x


def with_batch_statistics(network: nn.Module) -> nn.Module:
    """Make every batch norm use the batch at hand, in evaluation mode too, as the author's test code does."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return network


@torch.no_grad()
def drawn_as_dcgan(network: nn.Module) -> None:
    """Normal weights of deviation 0.02 and no bias (Radford et al. 2016), as the author's code has them."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
            else:
                nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _padding(side: int) -> tuple[int, int]:
    """Zeros before and after, with which a 5x5 kernel of stride 2 gives ceil(side / 2) values."""
    total = 2 * (-(-side // 2) - 1) + 5 - side
    return total // 2, total - total // 2

"""pix2pix (Isola et al. 2017) for small images: a U-Net, a patch discriminator and their training."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbg_defenses._pairs import Pairs
from rbg_defenses._turns import Player, take_turns
from robustbench_gan.training import Schedule, Shape, device_of, fresh

SMALLEST = 8  # pixels a side: below, the discriminator has no patch to judge
MULTIPLES = (1, 2, 4, 8, 8)  # of the width, layer by layer, as in pix2pix: 32 pixels become one


class UNet(nn.Module):
    """Images (N, C, H, W) in [0, 1] to the same: 4x4 convolutions of stride 2 down and up, joined level by level.

    Up to five levels, the first without and the innermost without batch norm on the way down; the image is padded
    to a multiple of what the levels halve, by repeating its border, and cut again. With five levels pix2pix's
    own network has no dropout, so this one has none.
    """

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        channels, height, across = shape
        depth = min(len(MULTIPLES), math.ceil(math.log2(min(height, across))))
        sizes = [channels, *(width * m for m in MULTIPLES[:depth])]
        self.multiple = 2**depth
        self.down = nn.ModuleList(
            _down(i, o, 0 < at < depth - 1) for at, (i, o) in enumerate(pairwise(sizes))
        )
        self.up = nn.ModuleList(
            _up(o if at == depth - 1 else 2 * o, i, at > 0) for at, (i, o) in enumerate(pairwise(sizes))
        )

    def forward(self, x: Tensor) -> Tensor:
        """The translated images."""
        height, width = x.shape[2:]
        tall, wide = (-(-side // self.multiple) * self.multiple for side in (height, width))
        top, left = (tall - height) // 2, (wide - width) // 2
        around = (left, wide - width - left, top, tall - height - top)
        levels = [F.pad(2 * x - 1, around, mode="replicate")]
        for at, layer in enumerate(self.down):
            levels.append(layer(F.leaky_relu(levels[-1], 0.2) if at else levels[-1]))
        h = levels.pop()
        for layer in reversed(self.up):
            h = layer(F.relu(h))
            h = torch.cat([levels.pop(), h], dim=1) if len(levels) > 1 else h
        return (h[:, :, top : top + height, left : left + width].tanh() + 1) / 2


def _down(inputs: int, outputs: int, normed: bool) -> nn.Module:
    layer = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=not normed)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs)) if normed else layer


def _up(inputs: int, outputs: int, normed: bool) -> nn.Module:
    layer = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=not normed)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs)) if normed else layer


class PatchDiscriminator(nn.Module):
    """Input and candidate (N, C, H, W) each to one logit a patch of 16x16 pixels, (N, 1, h, w): is it the real one?"""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2 * channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 4, padding=1),
        )  # fmt: skip

    def forward(self, given: Tensor, candidate: Tensor) -> Tensor:
        """Logits of the candidates, conditioned on what they were made from."""
        judged: Tensor = self.layers(2 * torch.cat([given, candidate], dim=1) - 1)
        return judged


def train_unet(generator: UNet, pairs: Pairs, schedule: Schedule, width: int, l1: float, seed: int) -> float:
    """Train a generator in place, the discriminator first in every batch; returns the seconds.

    The discriminator lowers half the sum of its cross-entropies on real and made pairs, the generator its own
    plus `l1` times the mean absolute error of images in [-1, 1].
    """
    channels, device = pairs.given.shape[1], device_of(generator)
    discriminator = fresh(lambda: PatchDiscriminator(channels, width), seed + 1)
    discriminator = discriminator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    judge, maker = (
        Player("discriminator", schedule.lr, discriminator),
        Player("generator", schedule.lr, generator),
    )

    def turn(step: int, both: Tensor, y: Tensor) -> None:
        given, clean = both.chunk(2, dim=1)
        made = generator(given)
        real, fake = discriminator(given, clean), discriminator(given, made.detach())
        judge.lower((_answered(real, True) + _answered(fake, False)) / 2)
        maker.lower(_answered(discriminator(given, made), True) + 2 * l1 * F.l1_loss(made, clean))

    seconds = take_turns(turn, (judge, maker), pairs, schedule, seed=seed, description="training pix2pix")
    generator.eval()
    return seconds


def _answered(logits: Tensor, real: bool) -> Tensor:
    """The cross-entropy of every patch with one answer, a scalar."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))

"""Conditional-GAN purifier: pix2pix from adversarial to clean images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rbg_defenses._pairs import InnerAttack, Pairs
from rbg_defenses._pix2pix import SMALLEST, UNet, train_unet
from rbg_defenses._trained_purifier import TrainedPurifier
from rbg_defenses._turns import checked
from robustbench_gan.contracts import Dataset, Norm, Split, UsageError
from robustbench_gan.seeds import sample_seeds, uniform
from robustbench_gan.training import Shape


class ConditionalGAN(TrainedPurifier[UNet]):
    """Conditional-GAN defense (Yu et al. 2020): pix2pix (Isola et al. 2017) maps adversarial images to clean ones.

    A U-Net learns from pairs of a training image and its example by `attack` (any registered one, `noise` too)
    within `norm` and `eps`, crafted once on the classifier; a share `clean` of the pairs has the image itself to
    clean. It lowers a patch discriminator's cross-entropy plus `l1` times the absolute error (eq. 4 of pix2pix).
    What of the paper we could read gives no numbers: rates and weights are pix2pix's; `width`, `epochs`,
    `batch_size` and the attack are ours (pix2pix's width is 64). Batch norm in evaluation mode, no dropout: not
    random, and no sample touches another. Raises UsageError for an impossible value and for images under 8 pixels.
    """

    kind = "cgan"
    smallest = SMALLEST

    def __init__(
        self,
        base: nn.Module,
        *,
        attack: str = "fgsm",
        norm: Norm = "linf",
        eps: float = 0.3,
        clean: float = 0.0,
        width: int = 16,
        l1: float = 100.0,
        epochs: int = 5,
        batch_size: int = 64,
        lr: float = 2e-4,
    ) -> None:
        if not 0 <= clean <= 1 or width < 1 or l1 < 0:
            raise UsageError(
                f"cgan needs clean in [0, 1], width >= 1 and l1 >= 0, not {clean}, {width} and {l1}."
            )
        inner = InnerAttack.named(attack, norm, eps, by=self.kind)
        super().__init__(base, inner, checked(self.kind, epochs, batch_size, lr))
        self.clean, self.width, self.l1 = clean, width, l1

    def network(self, shape: Shape) -> UNet:
        """The U-Net."""
        return UNet(shape, self.width)

    def choices(self) -> dict[str, Any]:
        """The share of clean pairs, the width and the weight of the error."""
        return {"clean": self.clean, "width": self.width, "l1": self.l1}

    def learn(self, network: UNet, model: nn.Module, data: Dataset, seed: int) -> float:
        """Craft the pairs on the classifier and train the U-Net on them."""
        pairs = Pairs(data.train, self._given(model, data.train, seed))
        return train_unet(network, pairs, self.schedule, self.width, self.l1, seed)

    def _given(self, model: nn.Module, split: Split, seed: int) -> Tensor:
        """An image to clean for each of a split's: its adversarial example or, for the share `clean`, itself."""
        attacked = self.inner.on(model, split, seed)
        kept = uniform(sample_seeds(seed, "cgan/clean", torch.arange(len(split))), (1,))[:, 0] < self.clean
        attacked[kept] = split.pixels(kept)
        return attacked

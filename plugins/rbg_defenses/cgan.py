"""Conditional-GAN purifier: pix2pix from adversarial to clean images."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from rbg_defenses._pairs import InnerAttack
from rbg_defenses._pix2pix import SMALLEST, Pairs, UNet, train_unet
from rbg_defenses._turns import MEASURED, accuracies, checked
from robustbench_gan import registry
from robustbench_gan.budget import Norm
from robustbench_gan.data.dataset import Dataset, Split
from robustbench_gan.defense import Defense
from robustbench_gan.errors import UsageError
from robustbench_gan.seeds import sample_seeds, uniform
from robustbench_gan.store import Store
from robustbench_gan.training import device_of, freeze, fresh

RECIPE_VERSION = 1


class ConditionalGAN(Defense):
    """Conditional-GAN defense (Yu et al. 2020): pix2pix (Isola et al. 2017) maps adversarial images to clean ones.

    A U-Net learns from pairs of a training image and its example by `attack` (any registered one, `noise` too)
    within `norm` and `eps`, crafted once on the classifier; a share `clean` of the pairs has the image itself to
    clean. It lowers a patch discriminator's cross-entropy plus `l1` times the absolute error (eq. 4 of pix2pix).
    What of the paper we could read gives no numbers: rates and weights are pix2pix's; `width`, `epochs`,
    `batch_size` and the attack are ours (pix2pix's width is 64). Batch norm in evaluation mode, no dropout: not
    random, and no sample touches another. Raises UsageError for an impossible value and for images under 8 pixels.
    """

    purifies = True

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
        super().__init__(base)
        if not 0 <= clean <= 1 or width < 1 or l1 < 0:
            raise UsageError(
                f"cgan needs clean in [0, 1], width >= 1 and l1 >= 0, not {clean}, {width} and {l1}."
            )
        self.inner = InnerAttack.named(attack, norm, eps, by="cgan")
        self.clean, self.width, self.l1 = clean, width, l1
        self.schedule = checked("cgan", epochs, batch_size, lr)
        self.purifier: nn.Module = nn.Identity()
        self.keys: dict[str, str] = {}

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        """Craft the pairs on the classifier and train the U-Net, or load it."""
        if min(data.shape[1:]) < SMALLEST:
            raise UsageError(
                f"cgan needs images of {SMALLEST} pixels a side or more, not {data.shape[1]}x{data.shape[2]}."
            )
        recipe = {
            "recipe_version": RECIPE_VERSION,
            "code": registry.code_digest(type(self)),
            **self.inner.recipe,
            "classifier": self.base_key,
            "clean": self.clean,
            "width": self.width,
            "l1": self.l1,
            "schedule": vars(self.schedule),
            "data": data.digest,
            "seed": seed,
        }
        network = fresh(lambda: UNet(data.shape, self.width), seed)
        assert isinstance(network, UNet)
        network = network.to(device_of(self.base), memory_format=torch.channels_last)  # type: ignore[call-overload]
        artifact = store.fetch("cgan", recipe, lambda: self._build(network, data, seed))
        network.load_state_dict(dict(artifact.tensors))
        self.purifier = freeze(network)
        self.keys = {"purifier": artifact.key}

    def training_keys(self) -> dict[str, str]:
        """The key of the U-Net."""
        return self.keys

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """The cleaned image, in [0, 1]."""
        cleaned: Tensor = self.purifier(x)
        return cleaned

    def parts(self) -> dict[str, nn.Module]:
        """The U-Net, as `purifier`."""
        return {"purifier": self.purifier}

    def _build(self, network: UNet, data: Dataset, seed: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        model = freeze(copy.deepcopy(self.base))
        pairs = Pairs(data.train, self._given(model, data.train, seed))
        seconds = train_unet(network, pairs, self.schedule, self.width, self.l1, seed)
        held = data.validation.take(slice(0, MEASURED))
        facts = accuracies(model, network, held, self.inner.on(model, held, seed))
        return network.state_dict(), {**facts, "seconds": seconds}

    def _given(self, model: nn.Module, split: Split, seed: int) -> Tensor:
        """An image to clean for each of a split's: its adversarial example or, for the share `clean`, itself."""
        attacked = self.inner.on(model, split, seed)
        kept = uniform(sample_seeds(seed, "cgan/clean", torch.arange(len(split))), (1,))[:, 0] < self.clean
        attacked[kept] = split.pixels(kept)
        return attacked

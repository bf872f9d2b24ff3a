"""The autoencoders of MagNet: networks, and the training of one or of a diverse collection."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbg_defenses._wgan import Generator
from robustbench_gan.contracts import Dataset, UsageError
from robustbench_gan.training import (
    Artifact,
    BatchLoss,
    Schedule,
    Shape,
    Store,
    device_of,
    freeze,
    fresh,
    module_digest,
    optimise,
    unfinished,
)

RECIPE_VERSION = 2
PRETRAINING = 3  # epochs in which the members of a collection learn each for itself
CODE = 128  # the length of the code of Defense-GAN's encoder
Architecture = Literal["I", "II", "defense-gan"]


class Autoencoder(nn.Module):
    """Autoencoders of MagNet (Meng and Chen 2017, Table 2): 3x3 convolutions of one width and sigmoids.

    I, `pooled`: convolution, 2x2 average, two convolutions, doubling, convolution, output. II: two, output.
    """

    def __init__(self, channels: int, width: int, pooled: bool = True) -> None:
        super().__init__()
        sizes = [(channels, width), *[(width, width)] * (3 if pooled else 1)]
        self.pooled = pooled
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in sizes)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] to the same; H and W even where it pools."""
        for at, convolution in enumerate(self.convolutions):
            x = torch.sigmoid(convolution(x))
            if self.pooled and at == 0:
                x = F.avg_pool2d(x, 2)
            if self.pooled and at == 2:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return torch.sigmoid(self.last(x))


class CodeAutoencoder(nn.Module):
    """The MagNet that Defense-GAN was compared with (Samangouei et al. 2018, Table 7): an image to a code and back.

    The encoder is published: three strided 5x5 convolutions of `width`, 2 and 4 times it, and 128 tanh units. The
    decoder is not; here it is Defense-GAN's generator. Raises UsageError for sides that it cannot make.
    """

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(shape[0], width, 5, stride=2)
        self.down2 = nn.Conv2d(width, 2 * width, 5, stride=2)
        self.down3 = nn.Conv2d(2 * width, 4 * width, 5, stride=2, padding=2)
        self.code = nn.Linear(4 * width * 4 * 4, CODE)
        self.decoder = Generator(shape, width, CODE)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] to the same, of side 28 or 32."""
        h = F.leaky_relu(self.down1(F.pad(x, (1, 2, 1, 2))), 0.2)
        h = F.leaky_relu(self.down2(F.pad(h, (1, 2, 1, 2))), 0.2)
        h = F.leaky_relu(self.down3(h), 0.2).flatten(1)
        made: Tensor = self.decoder(torch.tanh(self.code(h)))
        return made


@dataclass(frozen=True)
class Training:
    """Everything that decides a collection of autoencoders but data and seed.

    `noise` is the deviation of the normal noise that is to be removed; it is drawn anew for every batch. `count` is
    the collection's size and `diversity` the weight of its members' distance from their mean, without meaning for
    a collection of one.
    """

    architecture: Architecture
    width: int
    noise: float
    schedule: Schedule
    count: int = 1
    diversity: float = 0.0

    def recipe(self, data: Dataset, seed: int) -> dict[str, Any]:
        """What its artifact is found by."""
        recipe = {
            "recipe_version": RECIPE_VERSION,
            "code": module_digest(Autoencoder),
            "architecture": self.architecture,
            "width": self.width,
            "noise": self.noise,
            "schedule": asdict(self.schedule),
            "data": data.digest,
            "seed": seed,
        }
        if self.architecture == "defense-gan":
            recipe["decoder_code"] = module_digest(Generator)
        if self.count > 1:
            recipe["collection"] = [self.count, self.diversity, PRETRAINING]
        return recipe

    def fetch(
        self, data: Dataset, seed: int, store: Store, device: torch.device
    ) -> tuple[nn.ModuleList, Artifact]:
        """The trained, frozen members of the collection and their artifact."""
        _, height, width = data.shape
        if self.architecture == "I" and (height % 2 or width % 2):
            raise UsageError(
                f"magnet needs images with even sides, not {height}x{width}: resize the data or take "
                "networks=cifar10, which does not pool."
            )
        members = nn.ModuleList(fresh(lambda: self._build(data.shape), seed + at) for at in range(self.count))
        # Faster on a CPU.
        members = members.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        module = members if self.count > 1 else members[0]

        def build() -> tuple[dict[str, Tensor], dict[str, float]]:
            info = self._train(members, module, data, seed)
            return module.state_dict(), info

        artifact = store.fetch("magnet-autoencoder", self.recipe(data, seed), build)
        module.load_state_dict(dict(artifact.tensors))
        freeze(members)
        return members, artifact

    def _build(self, shape: Shape) -> nn.Module:
        if self.architecture == "defense-gan":
            return CodeAutoencoder(shape, self.width)
        return Autoencoder(shape[0], self.width, pooled=self.architecture == "I")

    def _train(self, members: nn.ModuleList, module: nn.Module, data: Dataset, seed: int) -> dict[str, float]:
        name = f"magnet autoencoder {self.architecture}" + (f" x{self.count}" if self.count > 1 else "")
        seconds = 0.0
        if self.count > 1:
            alone = replace(self.schedule, epochs=PRETRAINING)
            seconds += optimise(
                module, data.train, self._loss(members, 0.0), alone, seed=seed, description=name,
                checkpoint=unfinished(),
            )  # fmt: skip
        together = self._loss(members, self.diversity)
        # Neither batches nor noise of the first epochs are seen again.
        later = seed + PRETRAINING if self.count > 1 else seed
        seconds += optimise(
            module, data.train, together, self.schedule, seed=later, description=name, checkpoint=unfinished()
        )
        return {"validation_mse": _error(members, data), "seconds": seconds}

    def _loss(self, members: nn.ModuleList, diversity: float) -> BatchLoss:
        """The members' summed squared errors, less `diversity` times their squared distances from their mean."""

        def loss(x: Tensor, _: Tensor) -> Tensor:
            made = [member(self._noisy(x)) for member in members]
            total = sum((F.mse_loss(image, x) for image in made), x.new_zeros(()))
            if diversity:
                mean = torch.stack(made).mean(dim=0)
                total = total - diversity * sum(F.mse_loss(image, mean) for image in made)
            return total

        return loss

    def _noisy(self, x: Tensor) -> Tensor:
        return (x + self.noise * torch.randn_like(x)).clamp(0, 1)


@torch.no_grad()
def _error(members: nn.ModuleList, data: Dataset) -> float:
    """The mean squared error on clean validation images, averaged over the members."""
    x = data.validation.pixels(slice(0, 1000)).to(device_of(members))
    return sum(F.mse_loss(member(x), x).item() for member in members) / len(members)

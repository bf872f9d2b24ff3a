"""APE-GAN: a generator trained against a discriminator to give attacked images back clean."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbg_defenses._ape_networks import (
    Architecture,
    Discriminator,
    Purifier,
    to_range,
    with_batch_statistics,
)
from rbg_defenses._pairs import InnerAttack, Pairs
from rbg_defenses._trained_purifier import TrainedPurifier
from rbg_defenses._turns import Player, take_turns
from robustbench_gan.contracts import Dataset, Norm, UsageError
from robustbench_gan.training import Schedule, Shape, Store, device_of, fresh


@dataclass(frozen=True)
class Loss:
    """Weights of the generator's terms, whether the pixel term is a root, and what the discriminator is shown.

    `all_sets`: clean, attacked and both purified, of which only the clean are real; else clean against purified.
    """

    pixel: float
    adversarial: float
    smooth: float = 0.0
    root: bool = False
    all_sets: bool = False


LOSSES = {
    "arxiv": Loss(0.7, 0.3),
    "icassp": Loss(0.1, 0.45, 0.45, all_sets=True),
    "author": Loss(0.9, 0.02, root=True),
}


class APEGAN(TrainedPurifier[Purifier]):
    """APE-GAN (Shen et al. 2017, arXiv 1707.05474): classify G(x), G trained to undo adversarial perturbations.

    G learns from pairs: an image that `attack` (any registered one that needs no training and no purifier) made of a
    training image inside `norm` and `eps` against the classifier, and the clean one. `clean_pairs` adds every clean
    image as its own pair. `loss` is `arxiv` (0.7 MSE + 0.3 adversarial), `icassp` (Shen et al. 2019: 0.1 and 0.45, and
    0.45 of the anisotropic total variation of G's image; the discriminator also sees attacked and purified clean images
    as false, and G's adversarial term is over both kinds of purified ones: our reading of an ambiguous text) or
    `author` (the author's code: 0.9 RMSE + 0.02 adversarial). Each batch is one step of the discriminator and
    `generator_steps` of G. `architecture` is the author's (5x5 kernels, pixels in [-1, 1]) or the first port's (4x4
    kernels, pixels in [0, 1]), `width` its channels.

    `batch_norm=evaluation` purifies each image by itself. `batch` takes the statistics of the batch, as the author's
    test code does: an image's answer then depends on the others beside it. Differentiable and not random.
    Raises UsageError for an impossible value, or images whose sides the networks cannot halve.
    """

    kind = "ape-gan"

    def __init__(
        self,
        base: nn.Module,
        *,
        attack: str = "fgsm",
        norm: Norm = "linf",
        eps: float = 0.3,
        clean_pairs: bool = False,
        loss: Literal["arxiv", "icassp", "author"] = "arxiv",
        architecture: Architecture = "author",
        batch_norm: Literal["evaluation", "batch"] = "evaluation",
        width: int = 64,
        epochs: int = 2,
        batch_size: int = 64,
        lr: float = 2e-4,
        generator_steps: int = 2,
    ) -> None:
        if min(width, epochs, batch_size, generator_steps) < 1 or lr <= 0:
            raise UsageError(
                "ape-gan needs width, epochs, batch_size and generator_steps >= 1 and lr > 0, not "
                f"{width}, {epochs}, {batch_size}, {generator_steps} and {lr}."
            )
        inner = InnerAttack.named(attack, norm, eps, by=self.kind)
        super().__init__(base, inner, Schedule(epochs, batch_size, lr, one_cycle=False))
        self.clean_pairs, self.loss, self.architecture = clean_pairs, loss, architecture
        self.batch_norm, self.width, self.generator_steps = batch_norm, width, generator_steps

    def why_not(self, shape: Shape, classes: int) -> str:
        """The generator halves the image twice."""
        _, height, width = shape
        least = 4 if self.architecture == "author" else 16  # the port's discriminator pads nothing
        if not (height % 4 or width % 4 or min(height, width) < least):
            return ""
        return (
            f"ape-gan:architecture={self.architecture} needs sides that are multiples of 4, at least {least}, not "
            f"{height}x{width}: resize the data"
        )

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        """Train the generator on attacks against the classifier at hand, or load it."""
        super().fit(data, seed, store)
        if self.batch_norm == "batch":
            with_batch_statistics(self.purifier)

    def network(self, shape: Shape) -> Purifier:
        """G."""
        return Purifier(shape, self.width, self.architecture)

    def choices(self) -> dict[str, Any]:
        """The pairs, the loss, the networks and the steps of G."""
        return {
            "clean_pairs": self.clean_pairs,
            "loss": asdict(LOSSES[self.loss]),
            "architecture": [self.architecture, self.width],
            "generator_steps": self.generator_steps,
        }

    def learn(self, network: Purifier, model: nn.Module, data: Dataset, seed: int) -> float:
        """Craft the pairs on the classifier; one step of the discriminator a batch, then those of G."""
        device = device_of(network)
        critic = fresh(lambda: Discriminator(data.shape, self.width, self.architecture), seed + 1)
        critic = critic.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        game = Adversaries(network, critic, LOSSES[self.loss])
        judge, maker = (
            Player("discriminator of ape-gan", self.schedule.lr, critic),
            Player("generator of ape-gan", self.schedule.lr, network),
        )

        def turn(step: int, both: Tensor, y: Tensor) -> None:
            attacked, clean = both.chunk(2, dim=1)
            judge.lower(game.of_critic(attacked, clean))
            for _ in range(self.generator_steps):
                maker.lower(game.of_generator(attacked, clean))

        pairs = Pairs(data.train, self.inner.on(model, data.train, seed), with_clean=self.clean_pairs)
        return take_turns(
            turn, (judge, maker), pairs, self.schedule, seed=seed, description="training ape-gan"
        )


@dataclass(frozen=True)
class Adversaries:
    """The two losses of the game, both on attacked images and the clean ones of the same rows, in [0, 1]."""

    generator: Purifier
    critic: nn.Module
    weights: Loss

    def of_critic(self, attacked: Tensor, clean: Tensor) -> Tensor:
        """Clean is real; purified, and under `all_sets` attacked and purified clean too, is not."""
        with torch.no_grad():
            false = [self.generator.raw(attacked)]
            if self.weights.all_sets:
                false += [self.generator.raw(clean), to_range(attacked, self.generator.signed)]
        fooled = torch.stack([_judged(self.critic(images), 0.0) for images in false]).mean()
        return _judged(self.critic(to_range(clean, self.generator.signed)), 1.0) + fooled

    def of_generator(self, attacked: Tensor, clean: Tensor) -> Tensor:
        """The pixel term, the term of the critic that should take G's images for real, and the total variation."""
        made = self.generator.raw(attacked)
        pixel = F.mse_loss(made, to_range(clean, self.generator.signed))
        adversarial = _judged(self.critic(made), 1.0)
        if self.weights.all_sets:
            adversarial = (adversarial + _judged(self.critic(self.generator.raw(clean)), 1.0)) / 2
        total = self.weights.pixel * (pixel.sqrt() if self.weights.root else pixel)
        total = total + self.weights.adversarial * adversarial
        return total + self.weights.smooth * total_variation(made) if self.weights.smooth else total


def total_variation(x: Tensor) -> Tensor:
    """The mean change from each pixel to the next one down plus that to the next one right."""
    down, right = x[:, :, 1:] - x[:, :, :-1], x[:, :, :, 1:] - x[:, :, :, :-1]
    return down.abs().mean() + right.abs().mean()


def _judged(logits: Tensor, as_: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, as_))

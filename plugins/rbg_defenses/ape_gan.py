"""APE-GAN: a generator trained against a discriminator to give attacked images back clean."""

from __future__ import annotations

import time
from collections.abc import Iterator
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
from rbg_defenses._pairs import InnerAttack
from robustbench_gan import progress, registry
from robustbench_gan.budget import Norm
from robustbench_gan.data.dataset import Dataset
from robustbench_gan.defense import Defense
from robustbench_gan.errors import UsageError
from robustbench_gan.models import Schedule
from robustbench_gan.seeds import isolated
from robustbench_gan.store import Store
from robustbench_gan.training import EVALUATION_BATCH, Diverged, device_of, fresh

RECIPE_VERSION = 1
BETAS = (0.5, 0.999)


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


class APEGAN(Defense):
    """APE-GAN (Shen et al. 2017, arXiv 1707.05474): classify G(x), G trained to undo adversarial perturbations.

    G learns from pairs: an image that `attack`, any registered attack, made of a training image inside `norm` and
    `eps` against the classifier, and the clean one. `clean_pairs` adds every clean image as its own pair. `loss` is
    `arxiv` (0.7 MSE + 0.3 adversarial), `icassp` (Shen et al. 2019: 0.1 and 0.45, and 0.45 of the anisotropic total
    variation of G's image; the discriminator also sees attacked and purified clean images as false) or `author` (the
    author's code: 0.9 RMSE + 0.02 adversarial). Each batch is one step of the discriminator and `generator_steps` of
    G. `architecture` is the author's or the first port's, `width` its channels.

    `batch_norm=evaluation` purifies each image by itself. `batch` takes the statistics of the batch, as the author's
    test code does: an image's answer then depends on the others beside it. Differentiable and not random.
    Raises UsageError for an impossible value, or images whose sides the networks cannot halve.
    """

    purifies = True

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
        super().__init__(base)
        if min(width, epochs, batch_size, generator_steps) < 1 or lr <= 0:
            raise UsageError(
                "ape-gan needs width, epochs, batch_size and generator_steps >= 1 and lr > 0, not "
                f"{width}, {epochs}, {batch_size}, {generator_steps} and {lr}."
            )
        self.inner = InnerAttack.named(attack, norm, eps, by="ape-gan")
        self.clean_pairs, self.loss, self.architecture = clean_pairs, loss, architecture
        self.batch_norm, self.width, self.generator_steps = batch_norm, width, generator_steps
        self.schedule = Schedule(epochs, batch_size, lr, one_cycle=False)
        self.generator: nn.Module = nn.Identity()
        self.keys: dict[str, str] = {}

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        """Train the generator on attacks against the classifier at hand, or load it."""
        _, height, width = data.shape
        least = 4 if self.architecture == "author" else 16  # the port's discriminator pads nothing
        if height % 4 or width % 4 or min(height, width) < least:
            raise UsageError(
                f"ape-gan:architecture={self.architecture} needs sides that are multiples of 4, at least {least}, "
                f"not {height}x{width}: resize the data."
            )
        network = fresh(lambda: Purifier(data.shape, self.width, self.architecture), seed)
        assert isinstance(network, Purifier)
        network = network.to(device_of(self.core), memory_format=torch.channels_last)  # type: ignore[call-overload]
        artifact = store.fetch("ape-gan", self._recipe(data, seed), lambda: self._build(network, data, seed))
        network.load_state_dict(dict(artifact.tensors))
        self.generator = with_batch_statistics(network) if self.batch_norm == "batch" else network
        self.generator.eval()
        self.keys = {"generator": artifact.key}

    def training_keys(self) -> dict[str, str]:
        """The key of the generator."""
        return self.keys

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """G(x), in [0, 1]."""
        purified: Tensor = self.generator(x)
        return purified

    def parts(self) -> dict[str, nn.Module]:
        """G, images to images, as `purifier`."""
        return {"purifier": self.generator}

    def _recipe(self, data: Dataset, seed: int) -> dict[str, Any]:
        return {
            "recipe_version": RECIPE_VERSION,
            "classifier": self.base_key,
            "code": [registry.module_digest(used) for used in (type(self), Purifier, InnerAttack)],
            **self.inner.recipe,
            "clean_pairs": self.clean_pairs,
            "loss": asdict(LOSSES[self.loss]),
            "architecture": [self.architecture, self.width],
            "generator_steps": self.generator_steps,
            "schedule": vars(self.schedule),
            "data": data.digest,
            "seed": seed,
        }

    def _build(
        self, network: Purifier, data: Dataset, seed: int
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        started = time.perf_counter()
        attacked = self.inner.on(self.core, data.train, seed)
        critic = fresh(lambda: Discriminator(data.shape, self.width, self.architecture), seed + 1)
        critic = critic.to(device_of(network), memory_format=torch.channels_last)  # type: ignore[call-overload]
        loss = Adversaries(network, critic, LOSSES[self.loss])
        optimisers = [torch.optim.Adam(m.parameters(), self.schedule.lr, BETAS) for m in (critic, network)]
        count = len(attacked) * (2 if self.clean_pairs else 1)
        steps = self.schedule.epochs * -(-count // self.schedule.batch_size)
        with isolated(seed), progress.task("training ape-gan", steps) as advance:
            for epoch in range(self.schedule.epochs):
                for harmed, clean in self._pairs(attacked, data, seed + epoch, device_of(network)):
                    _descend(optimisers[0], loss.of_critic(harmed, clean))
                    for _ in range(self.generator_steps):
                        _descend(optimisers[1], loss.of_generator(harmed, clean))
                    advance(1)
        network.eval()
        return network.state_dict(), {
            **self._facts(network, data, seed),
            "seconds": time.perf_counter() - started,
        }

    def _pairs(
        self, attacked: Tensor, data: Dataset, seed: int, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of pairs in a random order, the same permutation on both sides."""
        count = len(attacked)
        drawn = torch.Generator().manual_seed(seed & ((1 << 63) - 1))
        order = torch.randperm(count * (2 if self.clean_pairs else 1), generator=drawn)
        for index in order.split(self.schedule.batch_size):
            clean = data.train.pixels(index % count)
            harmed = torch.where((index < count).reshape(-1, 1, 1, 1), attacked[index % count], clean)
            yield harmed.to(device), clean.to(device)

    @torch.no_grad()
    def _facts(self, network: Purifier, data: Dataset, seed: int) -> dict[str, float]:
        """Accuracy on purified validation images, clean and attacked: at most 1,000 of them."""
        held = data.validation.take(slice(0, 1000))
        with torch.enable_grad():
            attacked = self.inner.on(self.core, held, seed)
        right = {"validation_accuracy": 0, "validation_accuracy_attacked": 0}
        for index in torch.arange(len(held)).split(EVALUATION_BATCH):
            y = held.labels[index]
            for name, x in zip(right, (held.pixels(index), attacked[index]), strict=True):
                logits = self.core(network(x.to(device_of(network))))
                right[name] += int((logits.argmax(dim=1).cpu() == y).sum())
        return {name: count / len(held) for name, count in right.items()}


@dataclass(frozen=True)
class Adversaries:
    """The two losses of the game, both on attacked images and the clean ones of the same rows, in [0, 1]."""

    generator: Purifier
    critic: nn.Module
    weights: Loss

    def of_critic(self, attacked: Tensor, clean: Tensor) -> Tensor:
        """Clean is real; purified, and under `all_sets` attacked and purified clean too, is not."""
        self.generator.train()
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


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    if not torch.isfinite(loss):
        raise Diverged(f"ape-gan: a loss became {loss.item()}")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()

"""Defense-GAN: replace the input by the nearest image that a generator of clean images can make."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import torch
from torch import Tensor, nn

from rbg_defenses._frozen import FrozenGenerator
from rbg_defenses._projection import Projection, Unrolled, descend
from rbg_defenses._wgan import Generator, WganRecipe, train_generator
from robustbench_gan import registry
from robustbench_gan.data.dataset import Dataset
from robustbench_gan.defense import Defense, Gradient
from robustbench_gan.errors import UsageError
from robustbench_gan.store import Store
from robustbench_gan.training import device_of, freeze, fresh

RECIPE_VERSION = 1
Preset = Literal["ref", "paper", "clean"]


class DefenseGAN(Defense):
    """Defense-GAN (Samangouei et al. 2018, eq. 8): classify G(z*), z* the code whose image is nearest the input.

    `preset` chooses the projection: `ref` as the reference code runs it, `paper` with the decay of the rate that
    the paper intends, `clean` from the generator's own prior and with the last update used. `iterations` is L,
    `restarts` R, `lr` the rate on the mean squared error, `init` overrides the preset's initial codes, `prune`
    drops the worse restarts on the way, at about half the cost. The generator (`width`, `latent`, `gan_*`,
    `critic_steps`, `gp`, `ema`) is trained by WGAN-GP once per recipe; L, R, lr, init and prune do not retrain
    it. Random: the initial codes come from the seed.
    Raises UsageError for an impossible value.
    """

    purifies = True
    randomised = True
    unrolls = True

    def __init__(
        self,
        base: nn.Module,
        *,
        preset: Preset = "ref",
        iterations: int = 200,
        restarts: int = 10,
        lr: float = 10.0,
        momentum: float = 0.7,
        init: Literal["preset", "small", "prior"] = "preset",
        prune: bool = False,
        width: int = 64,
        latent: int = 128,
        gan_steps: int = 200_000,
        gan_batch: int = 50,
        gan_lr: float = 1e-4,
        critic_steps: int = 5,
        gp: Literal["norm", "column"] = "norm",
        ema: float = 0.0,
        gan_decay: bool = False,
    ) -> None:
        super().__init__(base)
        if iterations < 1 or restarts < 1 or lr <= 0 or not 0 <= momentum < 1 or width < 1 or latent < 1:
            raise UsageError(
                "defense-gan needs iterations, restarts, width and latent >= 1, lr > 0, momentum in [0, 1); "
                f"not {iterations}, {restarts}, {width}, {latent}, {lr}, {momentum}."
            )
        own = "prior" if preset == "clean" else "small"
        self.projection = Projection(
            iterations, restarts, lr, momentum,
            init=own if init == "preset" else init,  # type: ignore[arg-type]
            decay=preset == "paper", after_last=preset == "clean", prune=prune,
        )  # fmt: skip
        self.recipe = WganRecipe(
            width, latent, gan_steps, critic_steps, gan_batch, gan_lr, gp=gp, ema=ema, decay=gan_decay
        )
        self.generator: nn.Module = nn.Identity()
        self.keys: dict[str, str] = {}

    @property
    def gradients(self) -> tuple[Gradient, ...]:
        """Through the last updates, BPDA with the identity (Athalye et al. 2018), and through all updates."""
        return ("truncated", "bpda", "full")

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        """Train the generator on the training images, or load it; it does not depend on the classifier."""
        recipe = {
            "recipe_version": RECIPE_VERSION,
            "gan": asdict(self.recipe),
            "code": registry.module_digest(Generator),
            "data": data.digest,
            "seed": seed,
        }
        device = device_of(self.base)
        network = fresh(lambda: Generator(data.shape, self.recipe.width, self.recipe.latent), seed)
        assert isinstance(network, Generator)

        def build() -> tuple[dict[str, Tensor], dict[str, float]]:
            info = train_generator(network.to(device), data.shape, data.train, self.recipe, seed)
            return network.state_dict(), info

        artifact = store.fetch("wgan-gp", recipe, build)
        network.load_state_dict(dict(artifact.tensors))
        self.generator = freeze(FrozenGenerator(network.to(device)))
        self.keys = {"generator": artifact.key}

    def training_keys(self) -> dict[str, str]:
        """The key of the generator."""
        return self.keys

    def parts(self) -> dict[str, nn.Module]:
        """The generator, codes (N, latent) to images, as `generator`; what classifies its images as `classifier`."""
        return {"generator": self.generator, "classifier": self.core}

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """The nearest image found, in [0, 1]; under autograd its exact gradient, through every update."""
        if torch.is_grad_enabled() and x.requires_grad:
            return self.truncated(x, seed, self.projection.updates)
        z, _, _ = descend(self.generator, x, self._start(x, seed), self.projection)
        with torch.no_grad():
            image: Tensor = self.generator(z)
        return image

    def truncated(self, x: Tensor, seed: Tensor, steps: int) -> Tensor:
        """The same image with the gradient through the last `steps` updates."""
        z = Unrolled.apply(x, self._start(x, seed), self.generator, self.projection, steps)  # type: ignore[no-untyped-call]
        image: Tensor = self.generator(z)
        return image

    def _start(self, x: Tensor, seed: Tensor) -> Tensor:
        return self.projection.start(seed.to(x.device), self.recipe.latent)

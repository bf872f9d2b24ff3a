"""The WGAN-GP of Defense-GAN: networks, training, and resuming an interrupted training."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gan.contracts import Split, UsageError
from robustbench_gan.seeds import fold, integers, normal, uniform
from robustbench_gan.training import (
    Checkpoint,
    Diverged,
    Shape,
    device_of,
    fresh,
    progress,
    restore,
    state_of,
)

LEAK = 0.2  # of the critic's leaky ReLU
SIDES = (28, 32)  # what three doublings of a 4x4 map reach, 28 by cutting 8x8 to 7x7


@dataclass(frozen=True)
class WganRecipe:
    """Everything that decides a trained generator but data and seed; the defaults are the reference code's.

    `gp` is the gradient penalty's norm: over the whole image, or over each image column as the reference code
    in fact takes it. `ema` averages the generator's weights (0: off), `decay` lowers the learning rate
    linearly to 0 over the second half. Raises UsageError for an impossible value.
    """

    width: int = 64
    latent: int = 128
    steps: int = 200_000
    critic_steps: int = 5
    batch_size: int = 50
    lr: float = 1e-4
    penalty: float = 10.0
    gp: Literal["norm", "column"] = "norm"
    ema: float = 0.0
    decay: bool = False

    def __post_init__(self) -> None:
        if min(self.steps, self.critic_steps, self.batch_size) < 1 or self.lr <= 0 or not 0 <= self.ema < 1:
            raise UsageError(
                "a GAN needs gan_steps, critic_steps and gan_batch >= 1, gan_lr > 0 and ema in [0, 1), not "
                f"{self.steps}, {self.critic_steps}, {self.batch_size}, {self.lr} and {self.ema}."
            )


class Generator(nn.Module):
    """z (N, latent) to images (N, C, H, W) in [0, 1]: a layer, three 5x5 transposed convolutions (Table 6)."""

    def __init__(self, shape: Shape, width: int, latent: int) -> None:
        super().__init__()
        channels, side, other = shape
        if side != other or side not in SIDES:
            raise UsageError(
                f"defense-gan makes images of side {SIDES}, not {side}x{other}: resize the data."
            )
        self.width, self.latent, self.first = width, latent, 7 if side == 28 else 8
        self.linear = nn.Linear(latent, 4 * 4 * 4 * width)
        self.up1 = nn.ConvTranspose2d(4 * width, 2 * width, 5, stride=2, padding=1)
        self.up2 = nn.ConvTranspose2d(2 * width, width, 5, stride=2, padding=1)
        self.up3 = nn.ConvTranspose2d(width, channels, 5, stride=2, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Images for latent codes."""
        side = self.first
        h = F.relu(self.linear(z)).view(-1, 4 * self.width, 4, 4)
        h = F.relu(self.up1(h)[:, :, :side, :side])
        h = F.relu(self.up2(h)[:, :, : 2 * side, : 2 * side])
        return torch.sigmoid(self.up3(h)[:, :, : 4 * side, : 4 * side])


class Critic(nn.Module):
    """Images (N, C, H, W) to a score (N,): three strided 5x5 convolutions, no sigmoid (WGAN)."""

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(shape[0], width, 5, stride=2)
        self.down2 = nn.Conv2d(width, 2 * width, 5, stride=2)
        self.down3 = nn.Conv2d(2 * width, 4 * width, 5, stride=2, padding=2)
        self.linear = nn.Linear(4 * width * 4 * 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of images."""
        scores: Tensor = self.linear(F.leaky_relu(self._maps(x)[2], LEAK).flatten(1))
        return scores[:, 0]

    def slope(self, x: Tensor) -> Tensor:
        """The scores' gradient in the images, (N, C, H, W), as a function of the weights.

        The critic is piecewise linear, so this is a product of its transposed layers and of slopes that no small
        change of the weights moves. The gradient penalty differentiates it once; autograd, which would
        differentiate a backward pass, gets the same to rounding and takes longer.
        """
        with torch.no_grad():
            first, second, third = [torch.ones_like(h).masked_fill_(h <= 0, LEAK) for h in self._maps(x)]
        by_map = self.linear.weight.view(1, *third.shape[1:]) * third
        unseen = 1 - second.shape[-1] % 2  # the third convolution passes over the last row of an even side
        down3 = F.conv_transpose2d(by_map, self.down3.weight, stride=2, padding=2, output_padding=unseen)
        return _uncover(_uncover(down3 * second, self.down2) * first, self.down1)

    def _maps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the three convolutions give, before their leaky ReLU."""
        first = self.down1(F.pad(x, (1, 2, 1, 2)))
        second = self.down2(F.pad(F.leaky_relu(first, LEAK), (1, 2, 1, 2)))
        return first, second, self.down3(F.leaky_relu(second, LEAK))


def _uncover(slope: Tensor, down: nn.Conv2d) -> Tensor:
    """Back through a convolution of inputs that one row and column before and two behind were added to."""
    return F.conv_transpose2d(slope, down.weight, stride=2)[:, :, 1:-2, 1:-2]


def train_generator(
    generator: Generator,
    shape: Shape,
    data: Split,
    recipe: WganRecipe,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> dict[str, float]:
    """Train a generator in place by WGAN-GP (Gulrajani et al. 2017, algorithm 1); returns facts of the run.

    Every draw is a function of (seed, step), never of a global state, so that a training that goes on from
    its `checkpoint` ends as an undisturbed one does. Raises Diverged on a NaN loss.
    """
    started, device = time.perf_counter(), device_of(generator)
    critic = fresh(lambda: Critic(shape, recipe.width), seed + 1)
    assert isinstance(critic, Critic)
    critic.to(device)
    for network in (generator, critic):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU
    averaged = copy.deepcopy(generator)
    betas = (0.5, 0.9)
    for_generator = torch.optim.Adam(generator.parameters(), recipe.lr, betas)
    for_critic = torch.optim.Adam(critic.parameters(), recipe.lr, betas)
    draws = _Draws(data, recipe, seed, device)
    networks = {"generator": generator, "critic": critic, "averaged": averaged}
    optimisers = {"for_generator": for_generator, "for_critic": for_critic}
    first, before, loss = 0, 0.0, torch.tensor(math.nan)
    if checkpoint is not None and (found := checkpoint.load()) is not None:
        restore(found[0], networks, optimisers)
        first, before = int(found[1]["steps"]), found[1]["seconds"]
    with progress.task(f"training generator (width {recipe.width})", recipe.steps) as advance:
        advance(first)
        for step in range(first, recipe.steps):
            if recipe.decay:
                for group in (*for_generator.param_groups, *for_critic.param_groups):
                    group["lr"] = recipe.lr * min(1.0, 2 * (1 - step / recipe.steps))
            for turn in range(recipe.critic_steps):
                loss = _critic_loss(critic, generator, draws, step, turn, recipe)
                _descend(for_critic, loss)
            critic.requires_grad_(False)  # saves its weights' gradients, which nobody would use
            _descend(for_generator, -critic(generator(draws.codes(step, "generator"))).mean())
            critic.requires_grad_(True)
            if not torch.isfinite(loss):
                raise Diverged(f"the GAN's critic loss became {loss.item()} at step {step + 1}")
            _average(averaged, generator, min(recipe.ema, 1 - 1 / (step + 1)))
            advance(1)
            facts = {"steps": step + 1.0, "seconds": before + time.perf_counter() - started}
            if checkpoint is not None and (step + 1) % checkpoint.every == 0:
                checkpoint.save(state_of(networks, optimisers), facts)
    if recipe.ema:
        generator.load_state_dict(averaged.state_dict())
    generator.eval()
    return {"steps": float(recipe.steps), "seconds": before + time.perf_counter() - started}


@dataclass(frozen=True)
class _Draws:
    """Real images, latent codes and mixing weights, each a function of (seed, step, purpose)."""

    data: Split
    recipe: WganRecipe
    seed: int
    device: torch.device

    def _seed(self, *where: int | str) -> Tensor:
        return fold(torch.tensor([self.seed]), "wgan", *where)

    def images(self, step: int, turn: int) -> Tensor:
        each = fold(self._seed(step, turn, "real").expand(self.recipe.batch_size), self._rows())
        return self.data.pixels(integers(each, len(self.data))).to(self.device)

    def codes(self, step: int, purpose: int | str) -> Tensor:
        shape = (self.recipe.batch_size, self.recipe.latent)
        return normal(self._seed(step, purpose, "z"), shape)[0].to(self.device)

    def mixing(self, step: int, turn: int) -> Tensor:
        return uniform(self._seed(step, turn, "mix"), (self.recipe.batch_size, 1, 1, 1))[0].to(self.device)

    def _rows(self) -> Tensor:
        return torch.arange(self.recipe.batch_size)


def _critic_loss(
    critic: Critic, generator: nn.Module, draws: _Draws, step: int, turn: int, recipe: WganRecipe
) -> Tensor:
    """mean D(fake) - mean D(real) + penalty * (norm of D's gradient between them - 1)^2."""
    real = draws.images(step, turn)
    with torch.no_grad():
        fake = generator(draws.codes(step, turn))
    slope = critic.slope(real + draws.mixing(step, turn) * (fake - real))
    norms = slope.norm(dim=2) if recipe.gp == "column" else slope.flatten(1).norm(dim=1)
    on_fake, on_real = critic(torch.cat([fake, real])).chunk(2)
    loss: Tensor = on_fake.mean() - on_real.mean() + recipe.penalty * (norms - 1).square().mean()
    return loss


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


@torch.no_grad()
def _average(averaged: nn.Module, current: nn.Module, keep: float) -> None:
    pairs: Iterator[tuple[Tensor, Tensor]] = zip(averaged.parameters(), current.parameters(), strict=True)
    for old, new in pairs:
        old.lerp_(new, 1 - keep)

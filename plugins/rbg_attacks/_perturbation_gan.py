"""What AdvGAN and AI-GAN share: generator, discriminator, and their training in turns."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from robustbench_gan.contracts import (
    Budget,
    Goal,
    Loss,
    NotApplicable,
    TrainedAttack,
    Training,
    UsageError,
    View,
    flat,
    micro_batches,
)
from robustbench_gan.seeds import sample_seeds
from robustbench_gan.training import Diverged, Stateful, batches, device_of, going_on

SMALLEST = 16  # pixels a side: below, the innermost maps have one value and cannot be normalised
TINY = 1e-12


class Generator(nn.Module):
    """c3s1-8, d16, d32, four r32, u16, u8, c3s1-C with instance normalisation (Xiao et al. 2018).

    Maps (N, inputs, H, W) to (N, channels, H, W) in (-1, 1). Sides are padded to a multiple of four and cut again.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_normed(nn.Conv2d(inputs, 8, 3, padding=1), 8),
            *_normed(nn.Conv2d(8, 16, 3, stride=2, padding=1), 16),
            *_normed(nn.Conv2d(16, 32, 3, stride=2, padding=1), 32),
            *(_Block(32) for _ in range(4)),
            *_normed(nn.ConvTranspose2d(32, 16, 3, stride=2, padding=1, output_padding=1), 16),
            *_normed(nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1), 8),
            nn.Conv2d(8, channels, 3, padding=1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """The perturbation, before it is scaled to a budget."""
        made: Tensor = self.layers(padded(x))
        return made[..., : x.shape[-2], : x.shape[-1]]


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_normed(nn.Conv2d(width, width, 3, padding=1), width),
            *_normed(nn.Conv2d(width, width, 3, padding=1), width)[:-1],
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        added: Tensor = self.body(x)
        return x + added


def _normed(layer: nn.Module, width: int) -> list[nn.Module]:
    return [layer, nn.InstanceNorm2d(width), nn.ReLU()]


class Discriminator(nn.Module):
    """C8, C16, C32 and a linear layer with `outputs` columns; Ck is a 4x4 convolution of stride 2."""

    def __init__(self, shape: tuple[int, int, int], outputs: int = 1) -> None:
        super().__init__()
        body = nn.Sequential(
            nn.Conv2d(shape[0], 8, 4, stride=2, padding=1), nn.LeakyReLU(0.2),
            nn.Conv2d(8, 16, 4, stride=2, padding=1), nn.InstanceNorm2d(16), nn.LeakyReLU(0.2),
            nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.InstanceNorm2d(32), nn.LeakyReLU(0.2), nn.Flatten(),
        )  # fmt: skip
        with torch.no_grad():
            width = body(padded(torch.zeros(1, *shape))).shape[1]
        self.layers = nn.Sequential(*body, nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, outputs)."""
        judged: Tensor = self.layers(padded(x))
        return judged


def padded(x: Tensor) -> Tensor:
    """Zeros to the right and below, up to a multiple of four and at least 16 pixels a side."""
    height, width = (max(SMALLEST, 4 * math.ceil(side / 4)) for side in x.shape[-2:])
    return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))


def within(x: Tensor, made: Tensor, budget: Budget) -> Tensor:
    """x with the generator's output, in (-1, 1), as a perturbation inside the budget and the box."""
    return (x + budget.eps * made).clamp(0, 1)


def in_micro_batches(network: nn.Module, *inputs: Tensor) -> Tensor:
    """A network's answer computed in batches of one shape, so that a sample's does not depend on the others."""
    chunks = micro_batches(len(inputs[0]), inputs[0].device)
    return torch.cat([network(*(t[rows] for t in inputs))[:real] for rows, real in chunks])


def pull(view: View, loss: Loss, adversarial: Tensor) -> Tensor:
    """A scalar whose gradient at the examples is that of the mean loss, which the view alone can compute."""
    _, grad, _ = view.value_and_grad(loss, adversarial.detach())
    return (adversarial * grad).sum() / len(adversarial)


def l2_hinge(delta: Tensor, bound: float) -> Tensor:
    """The mean of max(0, l2 norm - bound), a scalar (Xiao et al. 2018, eq. 3)."""
    norm = (flat(delta).square().sum(dim=1) + TINY).sqrt()
    return (norm - bound).clamp(min=0).mean()


def least_squares(judged: Tensor, real: bool) -> Tensor:
    """The least-squares GAN loss, a scalar: answers (N, 1) are to be 1 for what is real and 0 else."""
    return (judged - float(real)).square().mean()


@dataclass(frozen=True)
class Batch:
    """One batch of a training: the share that is done, images (B, C, H, W), labels (B,), goal, view, seeds (B,)."""

    done: float
    x: Tensor
    y: Tensor
    goal: Goal
    view: View
    budget: Budget
    seed: Tensor


class PerturbationGAN(TrainedAttack):
    """A generator of perturbations trained against a discriminator, one step of each a batch.

    A subclass sets the two networks, says how a batch is perturbed and what each network is to lower. `steps`
    batches are taken with Adam at a rate that falls from `lr` to 0.
    """

    generator: nn.Module
    discriminator: nn.Module
    steps: int
    batch_size: int
    lr: float

    def goal_of(self, y: Tensor, goal_class: int | None, seed: Tensor) -> Goal:
        """What a batch with labels y (B,) aims at."""
        if goal_class is None:
            return Goal.untargeted(y)
        return Goal.targeted(torch.full_like(y, goal_class))

    @abstractmethod
    def perturbed(self, batch: Batch) -> Tensor:
        """The batch's examples, (B, C, H, W)."""

    @abstractmethod
    def discriminator_loss(self, batch: Batch, adversarial: Tensor) -> Tensor:
        """A scalar; the examples are detached."""

    @abstractmethod
    def generator_loss(self, batch: Batch, adversarial: Tensor) -> Tensor:
        """A scalar."""

    def fit(self, training: Training, goal_class: int | None, budget: Budget, seed: int) -> dict[str, float]:
        """Train both networks in turns. Raises Diverged at the first loss that is not a number."""
        self._check(budget)
        steps = max(1, round(self.steps * training.share))
        networks = (self.discriminator, self.generator)
        optimisers = [torch.optim.Adam(network.parameters(), lr=self.lr) for network in networks]
        falling = [LambdaLR(optimiser, lambda step: 1 - step / steps) for optimiser in optimisers]
        parts: dict[str, Stateful] = {"discriminator": self.discriminator, "generator": self.generator}
        parts |= {f"adam/{at}": optimiser for at, optimiser in enumerate(optimisers)}
        parts |= {f"rate/{at}": schedule for at, schedule in enumerate(falling)}
        with going_on(f"training {type(self).__name__}", steps, seed=seed, parts=parts) as run:
            todo = self._batches(training, goal_class, budget, seed, steps, run.first)
            for _, batch in zip(run, todo, strict=False):
                adversarial = self.perturbed(batch)
                _lower(optimisers[0], self.discriminator_loss(batch, adversarial.detach()))
                _lower(optimisers[1], self.generator_loss(batch, adversarial))
                for schedule in falling:
                    schedule.step()
        return {"steps": steps}

    def _check(self, budget: Budget) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.lr <= 0:
            raise UsageError(
                f"{type(self).__name__} needs steps >= 1, batch_size >= 1 and lr > 0, "
                f"not {self.steps}, {self.batch_size}, {self.lr}."
            )
        if budget.eps == math.inf:
            raise NotApplicable("the generator is trained inside a ball: it needs a finite eps")

    def _batches(
        self, training: Training, goal_class: int | None, budget: Budget, seed: int, steps: int, first: int
    ) -> Iterator[Batch]:
        """`steps` batches, epoch after epoch, without the images that are of the target class already.

        Those before the `first` are made already and left out.
        """
        device, number = device_of(self), 0
        if goal_class is not None and bool((training.data.labels == goal_class).all()):
            raise NotApplicable(f"every image to train on is of the target class {goal_class}")
        for epoch in count():
            for x, y in batches(training.data, self.batch_size, seed + epoch, device):
                kept = torch.ones_like(y, dtype=torch.bool) if goal_class is None else y != goal_class
                if not bool(kept.any()):
                    continue
                if number >= first:
                    x, y = x[kept], y[kept]
                    seeds = sample_seeds(seed, f"batch/{number}", torch.arange(len(y), device=device))
                    goal = self.goal_of(y, goal_class, seeds)
                    yield Batch(number / steps, x, y, goal, training.view(seeds), budget, seeds)
                number += 1
                if number == steps:
                    return


def _lower(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    if not bool(torch.isfinite(loss)):
        raise Diverged(f"the loss of the training became {loss.item()}")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()

"""The networks of Collaborative Defense-GAN and their training, as in the authors' code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbg_defenses._pairs import InnerAttack
from rbg_defenses._turns import Player, take_turns
from robustbench_gan.contracts import Bare, Budget, Dataset, Goal, Output, View
from robustbench_gan.seeds import sample_seeds, uniform
from robustbench_gan.training import Schedule, Shape, device_of, fresh

SMALLEST = 16  # pixels a side: below, the discriminator's last map is one value and cannot be normalised
LARGE = 32  # pixels a side from which the discriminator is the one for CIFAR-10

Last = Literal["relu", "tanh"]


class Translator(nn.Module):
    """A U-Net of 8, 16 and 32 channels, (N, C, H, W) to the same: what G_ba (`last` relu) and G_ab (tanh) are.

    3x3 convolutions, leaky ReLU, then instance norm without weights (not on the first level), max-pooling down,
    nearest neighbours up, nothing between the last pooling and the first of these. Where a side was odd the
    larger map gets a row or column of zeros in front.
    """

    def __init__(self, channels: int, last: Last) -> None:
        super().__init__()
        self.down = nn.ModuleList(_convolution(i, o) for i, o in ((channels, 8), (8, 16), (16, 32)))
        self.up = nn.ModuleList(_convolution(i, o) for i, o in ((32, 32), (64, 16), (32, 8)))
        self.output = _convolution(16, channels)
        self.last = F.relu if last == "relu" else torch.tanh

    def forward(self, x: Tensor) -> Tensor:
        """Cleaned images, unbounded above (relu), or a pattern in (-1, 1) (tanh)."""
        levels: list[Tensor] = []
        h = x
        for layer in self.down:
            h = F.leaky_relu(layer(h), 0.2)
            levels.append(F.instance_norm(h) if levels else h)
            h = F.max_pool2d(levels[-1], 2)
        for layer in self.up:
            skip = levels.pop()
            h = F.interpolate(h, scale_factor=2.0, mode="nearest")
            h = F.pad(h, (skip.shape[3] - h.shape[3], 0, skip.shape[2] - h.shape[2], 0))
            h = torch.cat([F.instance_norm(F.leaky_relu(layer(h), 0.2)), skip], dim=1)
        made: Tensor = self.last(self.output(h))
        return made


class Discriminator(nn.Module):
    """Images (N, C, H, W) to the probability of being real, patch by patch.

    Convolutions of 4, 8, 16, 32 channels, each pooled, or of 8 to 128 for images of 32 pixels a side or more.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        widths = (8, 16, 32, 64, 128) if min(shape[1:]) >= LARGE else (4, 8, 16, 32)
        self.layers = nn.ModuleList(
            _convolution(i, o) for i, o in zip((shape[0], *widths), widths, strict=False)
        )
        self.last = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, h, w) in (0, 1)."""
        for at, layer in enumerate(self.layers):
            x = F.leaky_relu(layer(x), 0.2)
            x = F.max_pool2d(F.instance_norm(x) if at else x, 2)
        return torch.sigmoid(self.last(x))


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class LogitGoal(Goal):
    """The goal with the loss of the authors' attack: minus the true class's logit (their NLL gets no log-softmax)."""

    def rows(self, index: Tensor) -> LogitGoal:
        """The goal of the samples in `index` alone."""
        return LogitGoal(self.kind, self.classes[index])

    def loss(self, out: Output) -> Tensor:
        """-Z_y, (N,)."""
        return -out.logits.gather(1, self.classes[:, None])[:, 0]


class Game:
    """Two translators, clean to attacked and back, two discriminators, and the losses between them."""

    def __init__(self, model: nn.Module, cleaner: Translator, shape: Shape, seed: int) -> None:
        device = device_of(cleaner)
        self.model, self.cleaner = model, cleaner
        self.attacker = fresh(lambda: Translator(shape[0], "tanh"), seed + 1).to(device)
        self.on_clean = fresh(lambda: Discriminator(shape), seed + 2).to(device)
        self.on_attacked = fresh(lambda: Discriminator(shape), seed + 3).to(device)

    def attack(self, x: Tensor, strength: float) -> Tensor:
        """x (N, C, H, W) with the learned pattern at a strength in [0, 1]."""
        moved: Tensor = (x + strength * self.attacker(x)).clamp(0, 1)
        return moved

    def translators_loss(self, x: Tensor, y: Tensor, attacked: Tensor, strength: float) -> Tensor:
        """Fooling both discriminators, translating and there-and-back both ways, the class, and clean kept clean."""
        cleaned, imitated = self.cleaner(attacked), self.attack(x, strength)
        loss: Tensor = (
            _answered(self.on_clean(cleaned), 1.0)
            + _answered(self.on_attacked(imitated), 1.0)
            + F.mse_loss(cleaned, x)
            + 2 * F.mse_loss(imitated, attacked)
            + F.mse_loss(self.cleaner(imitated), x)
            + 2 * F.mse_loss(self.attack(cleaned, strength), attacked)
            + F.cross_entropy(self.model(cleaned), y)
            + F.mse_loss(self.cleaner(x), x)
        )
        return loss

    def discriminators_loss(self, x: Tensor, attacked: Tensor, strength: float) -> Tensor:
        """For each discriminator half the sum of its absolute errors on real images and on translated ones."""
        with torch.no_grad():
            cleaned, imitated = self.cleaner(attacked), self.attack(x, strength)
        return (
            _answered(self.on_clean(x), 1.0)
            + _answered(self.on_clean(cleaned), 0.0)
            + _answered(self.on_attacked(attacked), 1.0)
            + _answered(self.on_attacked(imitated), 0.0)
        ) / 2


def _answered(judged: Tensor, wanted: float) -> Tensor:
    """The mean absolute error of every patch with one answer, a scalar."""
    return (judged - wanted).abs().mean()


def attacked_by(
    inner: InnerAttack, model: nn.Module, x: Tensor, goal: Goal, strength: float, seeds: Tensor
) -> Tensor:
    """Examples of x (B, C, H, W) by the inner attack at another strength than its own; seeds (B,)."""
    view, budget = View.on(Bare(model), seeds, whole_batches=True), Budget(inner.budget.norm, strength)
    made: Tensor = inner.function(view, x, goal, budget, seeds, **inner.parameters)
    return made.detach()


def train_cleaner(
    cleaner: Translator,
    model: nn.Module,
    data: Dataset,
    inner: InnerAttack,
    goal: Callable[[Tensor], Goal],
    schedule: Schedule,
    seed: int,
) -> float:
    """Train G_ba in place against `model`, frozen; returns the seconds.

    Every batch is attacked at a strength drawn from U(0, eps) of the inner attack, one for the batch, from `seed`
    and the batch's number; the translators move first, then the discriminators.
    """
    game = Game(model, cleaner, data.shape, seed)
    makers = Player("translators", schedule.lr, game.cleaner, game.attacker)
    judges = Player("discriminators", schedule.lr, game.on_clean, game.on_attacked)

    def turn(step: int, x: Tensor, y: Tensor) -> None:
        drawn = sample_seeds(seed, "collaborative/strength", torch.tensor([step]))
        strength = inner.budget.eps * uniform(drawn, (1,)).item()
        seeds = sample_seeds(seed, f"collaborative/{step}", torch.arange(len(y), device=x.device))
        attacked = attacked_by(inner, model, x, goal(y), strength, seeds)
        makers.lower(game.translators_loss(x, y, attacked, strength))
        judges.lower(game.discriminators_loss(x, attacked, strength))

    seconds = take_turns(
        turn, (makers, judges), data.train, schedule, seed=seed, description="collaborative training"
    )
    cleaner.eval()
    return seconds

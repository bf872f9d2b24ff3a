"""Collaborative Defense-GAN: a translator from attacked to clean images, trained together with its opposite."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from rbg_defenses._collaborative import SMALLEST, LogitGoal, Translator, attacked_by, train_cleaner
from rbg_defenses._pairs import InnerAttack
from rbg_defenses._trained_purifier import TrainedPurifier
from rbg_defenses._turns import checked
from robustbench_gan.contracts import Dataset, Goal, Split
from robustbench_gan.seeds import sample_seeds
from robustbench_gan.training import Shape, device_of

MEASURED_AT = 0.3  # of eps: where the stored facts are measured


class CollaborativeDefenseGAN(TrainedPurifier[Translator]):
    """Collaborative Defense-GAN (Laykaviriyakul and Phaisangittisagul 2023): classify G_ba(x), one pass of a U-Net.

    As in the authors' code, G_ba (attacked to clean) and G_ab (clean to an attack's pattern) are trained together
    with two discriminators and the classifier's own loss, on examples by `attack` in linf at a strength drawn from
    U(0, `eps`) for each batch. `loss=logit` crafts them by minus the true class's logit, as that code does,
    `cross-entropy` by the usual loss. Ours: the classifier is in evaluation mode, and values of G_ba above 1 are
    cut to 1. Not random, and instance norm keeps samples apart. Raises UsageError for an impossible value and for
    images under 16 pixels.
    """

    kind = "collaborative-defense-gan"
    smallest = SMALLEST
    layout = torch.preserve_format  # as made

    def __init__(
        self,
        base: nn.Module,
        *,
        attack: str = "fgsm",
        loss: Literal["logit", "cross-entropy"] = "logit",
        eps: float = 1.0,
        epochs: int = 10,
        batch_size: int = 128,
        lr: float = 2e-4,
    ) -> None:
        inner = InnerAttack.named(attack, "linf", eps, by=self.kind)
        super().__init__(base, inner, checked(self.kind, epochs, batch_size, lr))
        self.loss = loss

    def network(self, shape: Shape) -> Translator:
        """G_ba."""
        return Translator(shape[0], "relu")

    def choices(self) -> dict[str, Any]:
        """The loss of the examples."""
        return {"loss": self.loss}

    def learn(self, network: Translator, model: nn.Module, data: Dataset, seed: int) -> float:
        """Train the translators against the classifier."""
        return train_cleaner(network, model, data, self.inner, self._goal, self.schedule, seed)

    def examples(self, model: nn.Module, held: Split, seed: int) -> Tensor:
        """Examples at one strength, by the usual loss."""
        device = device_of(model)
        seeds = sample_seeds(seed, "collaborative/validation", torch.arange(len(held))).to(device)
        goal, strength = Goal.untargeted(held.labels.to(device)), MEASURED_AT * self.inner.budget.eps
        return attacked_by(self.inner, model, held.pixels().to(device), goal, strength, seeds)

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """G_ba(x), in [0, 1]."""
        return super().purify(x, seed).clamp(max=1)

    def _goal(self, y: Tensor) -> Goal:
        return LogitGoal.untargeted(y) if self.loss == "logit" else Goal.untargeted(y)

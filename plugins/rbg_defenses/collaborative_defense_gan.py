"""Collaborative Defense-GAN: a translator from attacked to clean images, trained together with its opposite."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from rbg_defenses._collaborative import SMALLEST, LogitGoal, Translator, attacked_by, train_cleaner
from rbg_defenses._pairs import InnerAttack
from rbg_defenses._turns import MEASURED, accuracies, checked
from robustbench_gan import registry
from robustbench_gan.data.dataset import Dataset
from robustbench_gan.defense import Defense
from robustbench_gan.errors import UsageError
from robustbench_gan.outcome import Goal
from robustbench_gan.seeds import sample_seeds
from robustbench_gan.store import Store
from robustbench_gan.training import device_of, freeze, fresh

RECIPE_VERSION = 1
MEASURED_AT = 0.3  # of eps: where the stored facts are measured


class CollaborativeDefenseGAN(Defense):
    """Collaborative Defense-GAN (Laykaviriyakul and Phaisangittisagul 2023): classify G_ba(x), one pass of a U-Net.

    As in the authors' code, G_ba (attacked to clean) and G_ab (clean to an attack's pattern) are trained together
    with two discriminators and the classifier's own loss, on examples by `attack` in linf at a strength drawn from
    U(0, `eps`) for each batch. `loss=logit` crafts them by minus the true class's logit, as that code does,
    `cross-entropy` by the usual loss. Ours: the classifier is in evaluation mode, and values of G_ba above 1 are
    cut to 1. Not random, and instance norm keeps samples apart. Raises UsageError for an impossible value and for
    images under 16 pixels.
    """

    purifies = True

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
        super().__init__(base)
        name = "collaborative-defense-gan"
        self.inner, self.loss = InnerAttack.named(attack, "linf", eps, by=name), loss
        self.schedule = checked(name, epochs, batch_size, lr)
        self.purifier: nn.Module = nn.Identity()
        self.keys: dict[str, str] = {}

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        """Train the translators against the classifier, or load G_ba."""
        if min(data.shape[1:]) < SMALLEST:
            raise UsageError(
                f"collaborative-defense-gan needs images of {SMALLEST} pixels a side or more, not "
                f"{data.shape[1]}x{data.shape[2]}."
            )
        recipe = {
            "recipe_version": RECIPE_VERSION,
            "code": registry.code_digest(type(self)),
            **self.inner.recipe,
            "classifier": self.base_key,
            "loss": self.loss,
            "schedule": vars(self.schedule),
            "data": data.digest,
            "seed": seed,
        }
        network = fresh(lambda: Translator(data.shape[0], "relu"), seed)
        assert isinstance(network, Translator)
        network = network.to(device_of(self.base))
        artifact = store.fetch("collaborative-defense-gan", recipe, lambda: self._build(network, data, seed))
        network.load_state_dict(dict(artifact.tensors))
        self.purifier = freeze(network)
        self.keys = {"purifier": artifact.key}

    def training_keys(self) -> dict[str, str]:
        """The key of G_ba."""
        return self.keys

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """G_ba(x), in [0, 1]."""
        cleaned: Tensor = self.purifier(x)
        return cleaned.clamp(max=1)

    def parts(self) -> dict[str, nn.Module]:
        """G_ba, as `purifier`."""
        return {"purifier": self.purifier}

    def _goal(self, y: Tensor) -> Goal:
        return LogitGoal.untargeted(y) if self.loss == "logit" else Goal.untargeted(y)

    def _build(
        self, network: Translator, data: Dataset, seed: int
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        model = freeze(copy.deepcopy(self.base))
        seconds = train_cleaner(network, model, data, self.inner, self._goal, self.schedule, seed)
        held, device = data.validation.take(slice(0, MEASURED)), device_of(model)
        seeds = sample_seeds(seed, "collaborative/validation", torch.arange(len(held))).to(device)
        goal, strength = Goal.untargeted(held.labels.to(device)), MEASURED_AT * self.inner.budget.eps
        attacked = attacked_by(self.inner, model, held.pixels().to(device), goal, strength, seeds)
        return network.state_dict(), {**accuracies(model, network, held, attacked), "seconds": seconds}

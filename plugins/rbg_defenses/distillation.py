"""Defensive distillation: a classifier trained at a high temperature on another one's soft answers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gan.contracts import Dataset, Defense, Samples, Split, UsageError
from robustbench_gan.training import (
    EVALUATION_BATCH,
    Build,
    Diverged,
    Stateful,
    Store,
    accuracy,
    device_of,
    freeze,
    going_on,
    kept,
    module_digest,
    reinitialised,
)

RECIPE_VERSION = 1


class Distillation(Defense):
    """Defensive distillation (Papernot et al. 2016): a student learns a teacher's softmax at a high temperature.

    From one start (`initial_epochs` of plain training) a teacher is trained on the labels and a student on the
    teacher's soft answers, both with their logits divided by `temperature`, for `epochs` each. It answers at
    temperature 1, so its softmax saturates and the gradient of a cross-entropy vanishes in float32; the logits hide
    nothing. Trained by Nesterov's gradient descent: `lr` falls as 1 / (1 + `decay` * step). White-box part
    `softened`: the same classifier with its logits divided by the temperature.
    Raises UsageError for an impossible value.
    """

    def __init__(
        self,
        base: nn.Module,
        *,
        temperature: float = 100.0,
        epochs: int = 50,
        initial_epochs: int = 1,
        batch_size: int = 128,
        lr: float = 0.01,
        momentum: float = 0.9,
        decay: float = 1e-6,
    ) -> None:
        super().__init__(base)
        if min(epochs, batch_size) < 1 or initial_epochs < 0 or min(temperature, lr) <= 0:
            raise UsageError(
                "distillation needs epochs and batch_size >= 1, initial_epochs >= 0, temperature and lr > 0, "
                f"not {epochs}, {batch_size}, {initial_epochs}, {temperature:g} and {lr:g}."
            )
        if not 0 < momentum < 1 or decay < 0:
            raise UsageError(
                f"distillation needs momentum in (0, 1) and decay >= 0, not {momentum:g} and {decay:g}."
            )
        self.temperature, self.epochs, self.initial_epochs = temperature, epochs, initial_epochs
        self.descent = Descent(batch_size, lr, momentum, decay)
        self.keys: dict[str, str] = {}

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        """Train teacher and student, or load them: new networks of the classifier's architecture."""
        recipe = {
            "recipe_version": RECIPE_VERSION,
            "architecture_of": self.base_key,
            "code": module_digest(type(self)),
            "temperature": self.temperature,
            "epochs": [self.initial_epochs, self.epochs],
            "descent": vars(self.descent),
            "data": data.digest,
            "seed": seed,
        }
        teacher = self._network(
            store, {**recipe, "role": "teacher"}, lambda: self._trained(data, data.train, seed)
        )

        def build_student() -> tuple[dict[str, Tensor], dict[str, float]]:
            soft = Softened(data.train, self._soft_answers(teacher, data.train))
            return self._trained(data, soft, seed)

        student = {**recipe, "role": "student", "teacher": self.keys["teacher"]}
        self.core = self._network(store, student, build_student)

    def training_keys(self) -> dict[str, str]:
        """The keys of teacher and student."""
        return self.keys

    def parts(self) -> dict[str, nn.Module]:
        """The classifier at the temperature it was trained at, images to logits, as `softened`."""
        return {"softened": Tempered(self.core, self.temperature)}

    def _network(self, store: Store, recipe: dict[str, Any], build: Build) -> nn.Module:
        artifact = store.fetch("distillation", recipe, build)
        model = copy.deepcopy(self.core)
        model.load_state_dict(dict(artifact.tensors))
        self.keys = {**self.keys, recipe["role"]: artifact.key}
        return freeze(model)

    def _trained(
        self, data: Dataset, learned: Samples, seed: int
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Both from the same start, whose training is cheap enough to be run twice."""
        model = reinitialised(copy.deepcopy(self.core).requires_grad_(True), seed)
        self.descent.train(model, data.train, 1.0, self.initial_epochs, seed)
        self.descent.train(model, learned, self.temperature, self.epochs, seed + self.initial_epochs)
        return model.state_dict(), {"validation_accuracy": accuracy(model, data.validation)}

    @torch.no_grad()
    def _soft_answers(self, teacher: nn.Module, split: Split) -> Tensor:
        """softmax(Z / T) of every image, (N, K)."""
        device = device_of(teacher)
        indices = torch.arange(len(split)).split(EVALUATION_BATCH)
        logits = [kept(partial(_answers, teacher, split, index, device), device) for index in indices]
        return F.softmax(torch.cat(logits) / self.temperature, dim=1).cpu()


def _answers(model: nn.Module, split: Split, index: Tensor, device: torch.device) -> Tensor:
    answers: Tensor = model(split.pixels(index).to(device))
    return answers


@dataclass(frozen=True)
class Softened:
    """Images with a distribution over the classes, (N, K) float32, in place of a label."""

    split: Split
    labels: Tensor

    def __len__(self) -> int:
        return len(self.split)

    def pixels(self, index: Tensor) -> Tensor:
        """(B, C, H, W) float32."""
        return self.split.pixels(index)


@dataclass(frozen=True)
class Descent:
    """Nesterov's gradient descent with a rate that falls as 1 / (1 + decay * step)."""

    batch_size: int
    lr: float
    momentum: float
    decay: float

    def train(self, model: nn.Module, data: Samples, temperature: float, epochs: int, seed: int) -> None:
        """Lower the cross-entropy of logits / temperature in place; raises Diverged at a loss that is none."""
        optimiser = torch.optim.SGD(model.parameters(), self.lr, self.momentum, nesterov=True)
        each = -(-len(data) // self.batch_size)
        description = f"distillation at temperature {temperature:g}"
        parts: dict[str, Stateful] = {"model": model, "descent": optimiser}
        model.train()
        with going_on(description, epochs * each, seed=seed, parts=parts) as run:
            for step, x, y in run.batches(data, self.batch_size, seed):
                for group in optimiser.param_groups:
                    group["lr"] = self.lr / (1 + self.decay * step)
                loss = F.cross_entropy(model(x) / temperature, y)
                if not torch.isfinite(loss):
                    raise Diverged(f"distillation: the loss became {loss.item()} in epoch {step // each + 1}")
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        model.eval()


class Tempered(nn.Module):
    """A classifier whose logits are divided by a temperature."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) / T."""
        logits: Tensor = self.model(x)
        return logits / self.temperature

"""One training loop for classifiers and for the networks of defenses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gan import progress
from robustbench_gan.data.dataset import Dataset, Split
from robustbench_gan.errors import UsageError
from robustbench_gan.models import Schedule
from robustbench_gan.seeds import isolated, stable_hash

EVALUATION_BATCH = 500
RECIPE_VERSION = 1

BatchLoss = Callable[[Tensor, Tensor], Tensor]


class Samples(Protocol):
    """Labelled images by index: a Split, or what a substitute collected."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""

    def __len__(self) -> int: ...

    def pixels(self, index: Tensor) -> Tensor:
        """(B, C, H, W) float32."""


class Diverged(RuntimeError):
    """Training gave a loss that is not a number."""


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters lie; the CPU for one that has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def batches(
    split: Samples, batch_size: int, seed: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in a random order: x (B, C, H, W) in [0, 1], y (B,)."""
    generator = torch.Generator().manual_seed(seed & ((1 << 63) - 1))
    for index in torch.randperm(len(split), generator=generator).split(batch_size):
        yield split.pixels(index).to(device), split.labels[index].to(device)


def optimise(
    module: nn.Module,
    split: Samples,
    loss: BatchLoss,
    schedule: Schedule,
    *,
    seed: int,
    description: str,
) -> float:
    """Train `module` with Adam to lower `loss(x, y)`, a scalar; returns the seconds it took.

    Deterministic in `seed`, which also feeds dropout and whatever else draws from torch's global generator
    while training. Raises Diverged at the first loss that is not a number.
    """
    started = time.perf_counter()
    optimiser = torch.optim.Adam(module.parameters(), lr=schedule.lr)
    steps = schedule.epochs * math.ceil(len(split) / schedule.batch_size)
    cycle = None
    if schedule.one_cycle:
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=schedule.lr, total_steps=steps)
    device = device_of(module)
    module.train()
    with isolated(seed), progress.task(description, steps) as advance:
        for epoch in range(schedule.epochs):
            for x, y in batches(split, schedule.batch_size, seed + epoch, device):
                value = loss(x, y)
                if not torch.isfinite(value):
                    raise Diverged(f"{description}: the loss became {value.item()} in epoch {epoch + 1}")
                optimiser.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                if cycle is not None:
                    cycle.step()
                advance(1)
    module.eval()
    return time.perf_counter() - started


def cross_entropy(model: nn.Module) -> BatchLoss:
    """The standard loss of a classifier."""
    return lambda x, y: F.cross_entropy(model(x), y)


@torch.no_grad()
def accuracy(model: nn.Module, split: Split) -> float:
    """The share of a split that a classifier gets right."""
    device, right = device_of(model), 0
    for index in torch.arange(len(split)).split(EVALUATION_BATCH):
        predicted = model(split.pixels(index).to(device)).argmax(dim=1)
        right += int((predicted == split.labels[index].to(device)).sum())
    return right / len(split)


def fresh(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A newly initialised network, the same for the same seed."""
    with isolated(stable_hash(f"init/{seed}")):
        return factory()


def reinitialised(model: nn.Module, seed: int) -> nn.Module:
    """Draw every layer's weights anew, in place: the same architecture, untrained.

    Raises UsageError for a layer that holds weights and cannot draw them: it would stay trained.
    """
    with isolated(stable_hash(f"init/{seed}")):
        for name, module in model.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif any(True for _ in module.parameters(recurse=False)):
                raise UsageError(
                    f"the layer {name or type(model).__name__!r} cannot be trained anew: give it a "
                    "reset_parameters() that draws its weights."
                )
    return model


def classifier_recipe(name: str, schedule: Schedule, data: Dataset, seed: int, code: str) -> dict[str, Any]:
    """Everything that decides a trained classifier."""
    return {
        "recipe_version": RECIPE_VERSION,
        "model": name,
        "code": code,
        "schedule": asdict(schedule),
        "data": data.digest,
        "seed": seed,
    }


def train_classifier(
    model: nn.Module, data: Dataset, schedule: Schedule, *, seed: int, description: str
) -> dict[str, float]:
    """Train a classifier on the training split; returns its validation accuracy and the seconds."""
    seconds = optimise(model, data.train, cross_entropy(model), schedule, seed=seed, description=description)
    return {"validation_accuracy": accuracy(model, data.validation), "seconds": seconds}


def freeze(model: nn.Module) -> nn.Module:
    """Evaluation mode and no gradients for the weights: what every attacked or judged network is in."""
    return model.eval().requires_grad_(False)

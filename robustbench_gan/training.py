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
from robustbench_gan.checkpoint import Checkpoint, restore, state_of
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
    split: Samples, batch_size: int, seed: int, device: torch.device, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in a random order, from its batch `first` on: x (B, C, H, W) in [0, 1], y (B,)."""
    generator = torch.Generator().manual_seed(seed & ((1 << 63) - 1))
    for index in torch.randperm(len(split), generator=generator).split(batch_size)[first:]:
        yield split.pixels(index).to(device), split.labels[index].to(device)


def optimise(
    module: nn.Module,
    split: Samples,
    loss: BatchLoss,
    schedule: Schedule,
    *,
    seed: int,
    description: str,
    checkpoint: Checkpoint | None = None,
    on_resume: Callable[[int], None] | None = None,
) -> float:
    """Train `module` with Adam to lower `loss(x, y)`, a scalar; returns the seconds it took, of all its parts.

    Deterministic in `seed`, which also feeds dropout and whatever else draws from torch's global generator
    while training. One that was killed goes on from its `checkpoint` and ends as an undisturbed one does; a loss
    that counts its calls is told by `on_resume` how many there were. Raises Diverged at the first loss that is
    not a number.
    """
    per_epoch = math.ceil(len(split) / schedule.batch_size)
    steps = schedule.epochs * per_epoch
    device = device_of(module)
    module.train()
    with isolated(seed), progress.task(description, steps) as advance:
        descent = _Descent(module, schedule, steps, checkpoint)
        first = descent.resume()
        if first and on_resume is not None:
            on_resume(first)
        advance(first)
        for epoch in range(first // per_epoch, schedule.epochs):
            skipped = max(0, first - epoch * per_epoch)
            for x, y in batches(split, schedule.batch_size, seed + epoch, device, skipped):
                value = loss(x, y)
                if not torch.isfinite(value):
                    raise Diverged(f"{description}: the loss became {value.item()} in epoch {epoch + 1}")
                descent.step(value)
                advance(1)
    module.eval()
    return descent.seconds


class _Descent:
    """Adam at the schedule's rate, and its state on disk every so many steps."""

    def __init__(
        self, module: nn.Module, schedule: Schedule, steps: int, checkpoint: Checkpoint | None
    ) -> None:
        self.module, self.checkpoint, self.device = module, checkpoint, device_of(module)
        self.optimiser = torch.optim.Adam(module.parameters(), lr=schedule.lr)
        self.cycle = None
        if schedule.one_cycle:
            self.cycle = torch.optim.lr_scheduler.OneCycleLR(
                self.optimiser, max_lr=schedule.lr, total_steps=steps
            )
        self.done, self.before, self.started = 0, 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        """How long it took up to now, with what was killed in between."""
        return self.before + time.perf_counter() - self.started

    def resume(self) -> int:
        """Put back the last state on disk, torch's random generators with it; the steps that were made up to it."""
        found = None if self.checkpoint is None else self.checkpoint.load()
        if found is None:
            return 0
        state, facts = found
        restore(state, {"module": self.module}, {"adam": self.optimiser})
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.done, self.before = int(facts["steps"]), facts["seconds"]
        if self.cycle is not None:  # its rate is a function of the step
            self.cycle.load_state_dict({"last_epoch": self.done - 1, "_step_count": self.done})
            self.cycle.step()
        return self.done

    def step(self, value: Tensor) -> None:
        """One update that lowers `value`."""
        self.optimiser.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        if self.cycle is not None:
            self.cycle.step()
        self.done += 1
        if self.checkpoint is not None and self.done % self.checkpoint.every == 0:
            state = state_of({"module": self.module}, {"adam": self.optimiser})
            state["random"] = torch.get_rng_state()
            if self.device.type == "cuda":
                state["random_cuda"] = torch.cuda.get_rng_state(self.device)
            self.checkpoint.save(state, {"steps": float(self.done), "seconds": self.seconds})


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
    model: nn.Module,
    data: Dataset,
    schedule: Schedule,
    *,
    seed: int,
    description: str,
    checkpoint: Checkpoint | None = None,
) -> dict[str, float]:
    """Train a classifier on the training split; returns its validation accuracy and the seconds."""
    loss = cross_entropy(model)
    seconds = optimise(
        model, data.train, loss, schedule, seed=seed, description=description, checkpoint=checkpoint
    )
    return {"validation_accuracy": accuracy(model, data.validation), "seconds": seconds}


def freeze(model: nn.Module) -> nn.Module:
    """Evaluation mode and no gradients for the weights: what every attacked or judged network is in."""
    return model.eval().requires_grad_(False)

"""One training loop for classifiers and for the networks of defenses."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gan.base import progress
from robustbench_gan.data.dataset import Dataset, Split
from robustbench_gan.data.samples import Samples
from robustbench_gan.models.schedule import Schedule
from robustbench_gan.nouns.seeds import isolated
from robustbench_gan.training.checkpoint import Checkpoint, Stateful, fits, restore, state_of, unfinished
from robustbench_gan.training.networks import device_of

EVALUATION_BATCH = 500
RECIPE_VERSION = 1
NOTES = "notes/"  # in a state: tensors of the training's own

BatchLoss = Callable[[Tensor, Tensor], Tensor]


class Diverged(RuntimeError):
    """Training gave a loss that is not a number."""


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
    while training. One that was killed goes on from its `checkpoint` (in a build `unfinished()`) and ends as an
    undisturbed one does, if `loss` changes nothing but the module; one that counts its calls is told by `on_resume`
    how many there were. Raises Diverged at the first loss that is not a number.
    """
    per_epoch = math.ceil(len(split) / schedule.batch_size)
    steps = schedule.epochs * per_epoch
    module.train()
    optimiser = torch.optim.Adam(module.parameters(), lr=schedule.lr)
    parts: dict[str, Stateful] = {"module": module, "adam": optimiser}
    cycle = None
    if schedule.one_cycle:
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=schedule.lr, total_steps=steps)
        parts["cycle"] = cycle
    with _going_on(checkpoint, description, steps, seed, parts) as run:
        if run.first and on_resume is not None:
            on_resume(run.first)
        for step, x, y in run.batches(split, schedule.batch_size, seed):
            value = loss(x, y)
            if not torch.isfinite(value):
                raise Diverged(
                    f"{description}: the loss became {value.item()} in epoch {step // per_epoch + 1}"
                )
            optimiser.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if cycle is not None:
                cycle.step()
    module.eval()
    return run.seconds


class Steps:
    """The steps of one training in order, from the first that no process before this one has made.

    `first` is its number. To iterate is to make them: after a step the state of all `parts` goes to disk where it is
    due. `notes` are further tensors, whatever their shape, that are kept with it and are there again.
    """

    def __init__(
        self,
        count: int,
        parts: Mapping[str, Stateful],
        checkpoint: Checkpoint | None,
        advance: Callable[[float], None],
    ) -> None:
        self.count, self.first = count, 0
        self.notes: dict[str, Tensor] = {}
        self._parts, self._checkpoint, self._advance = dict(parts), checkpoint, advance
        networks = [part for part in self._parts.values() if isinstance(part, nn.Module)]
        self.device = device_of(networks[0]) if networks else torch.device("cpu")
        self._before, self._started = 0.0, time.perf_counter()
        self._resume()
        advance(self.first)

    def __iter__(self) -> Iterator[int]:
        """The number of each step, from 0 on; it is made when the next is asked for."""
        for step in range(self.first, self.count):
            yield step
            if self._checkpoint is not None and (step + 1) % self._checkpoint.every == 0:
                self._checkpoint.save(*self._state(step + 1))
            self._advance(1)
        if self._checkpoint is not None and self.first < self.count:
            self._checkpoint.finish(*self._state(self.count))

    def batches(self, split: Samples, batch_size: int, seed: int) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Each step with a batch x (B, C, H, W), y (B,): epoch after epoch, each in an order of its own from `seed`."""
        if self.first < self.count and not len(split):
            raise ValueError("there is nothing to train on")
        epoch, skipped = divmod(self.first, max(1, math.ceil(len(split) / batch_size)))
        epochs = (
            batches(split, batch_size, seed + at, self.device, skipped if at == epoch else 0)
            for at in itertools.count(epoch)
        )
        for step, (x, y) in zip(self, itertools.chain.from_iterable(epochs), strict=False):
            yield step, x, y

    @property
    def seconds(self) -> float:
        """How long it took up to now, with what was killed in between."""
        return self._before + time.perf_counter() - self._started

    def _resume(self) -> None:
        """Put back the last state on disk, torch's random generators with it."""
        if self._checkpoint is None or (found := self._checkpoint.load(self._fits, self.device)) is None:
            return
        state, facts = found
        restore(state, self._parts)
        self.notes = {name[len(NOTES) :]: value for name, value in state.items() if name.startswith(NOTES)}
        self.notes = {name: value.to(self.device) for name, value in self.notes.items()}
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.first, self._before = int(facts["steps"]), facts["seconds"]

    def _fits(self, state: Mapping[str, Tensor]) -> bool:
        return "random" in state and fits(state, self._parts)

    def _state(self, made: int) -> tuple[dict[str, Tensor], dict[str, float]]:
        state = state_of(self._parts) | {NOTES + name: value for name, value in self.notes.items()}
        state["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return state, {"steps": float(made), "seconds": self.seconds}


def going_on(
    description: str, steps: int, *, seed: int, parts: Mapping[str, Stateful]
) -> AbstractContextManager[Steps]:
    """A training that goes on where an earlier process was killed: `with going_on(...) as run:`, `for step in run:`.

    In the `build` of an artifact at most a minute is lost, and the rest comes out as it would have, bit for bit, if
    `parts` is all that steps change (networks, optimisers, schedules of their rates, by name), and what a step draws
    comes from its number or from torch's global generator, which is the loop's own, from `seed`. Outside of a
    build nothing is kept. Progress is shown under `description`.
    """
    return _going_on(unfinished(), description, steps, seed, parts)


@contextmanager
def _going_on(
    checkpoint: Checkpoint | None, description: str, steps: int, seed: int, parts: Mapping[str, Stateful]
) -> Iterator[Steps]:
    with isolated(seed), progress.task(description, steps) as advance:
        yield Steps(steps, parts, checkpoint, advance)


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
) -> dict[str, float]:
    """Train a classifier on the training split; returns its validation accuracy and the seconds."""
    loss = cross_entropy(model)
    seconds = optimise(
        model, data.train, loss, schedule, seed=seed, description=description, checkpoint=unfinished()
    )
    return {"validation_accuracy": accuracy(model, data.validation), "seconds": seconds}

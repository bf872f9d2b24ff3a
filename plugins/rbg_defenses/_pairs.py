"""Pairs of an attacked image and the clean one: what a purifier learns from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_gan.contracts import (
    Bare,
    Budget,
    Goal,
    Norm,
    Spec,
    Split,
    UsageError,
    View,
    as_params,
    info_of,
    registry,
)
from robustbench_gan.seeds import sample_seeds
from robustbench_gan.training import EVALUATION_BATCH, code_digest, device_of, kept, progress


@dataclass(frozen=True)
class InnerAttack:
    """A registered attack with its parameters and budget, run on a bare classifier to make training images."""

    spec: Spec
    function: Any
    parameters: Mapping[str, Any]
    budget: Budget

    @classmethod
    def named(cls, attack: str | Spec, norm: Norm, eps: float, by: str) -> InnerAttack:
        """The attack of a spec. Raises UsageError where the defense `by` cannot train on it.

        That is one that must itself be trained, or that is made for a purifier (BPDA, manifold): there is none yet.
        """
        spec = attack if isinstance(attack, Spec) else Spec.parse(attack)
        function, parameters = registry.resolve("attacks", spec)
        info, budget = info_of(function), Budget(norm, eps)
        if info.trained:
            raise UsageError(
                f"{by} cannot train on {spec.name}, which must itself be trained; name another attack."
            )
        if info.gradient is not None:
            raise UsageError(
                f"{by} cannot train on {spec.name}, which attacks through a purifier; name another attack."
            )
        if norm not in info.norms:
            raise UsageError(f"{by}: {spec.name} is defined in {', '.join(info.norms)}, not in norm={norm}.")
        return cls(spec, function, parameters, budget)

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything of the attack that decides the images it makes."""
        return {
            "attack": str(Spec(self.spec.name, as_params(self.parameters))),
            "attack_code": code_digest(self.function),
            "budget": [self.budget.norm, self.budget.eps],
        }

    def on(self, model: nn.Module, split: Split, seed: int) -> Tensor:
        """The examples of a whole split, (N, C, H, W) float32 in [0, 1], away from the true labels.

        Kept as float32: rounded to bytes, a small perturbation would be another one.
        """
        device, made = device_of(model), []
        with progress.task(f"attacking {len(split)} images by {self.spec.name}", len(split)) as advance:
            for index in torch.arange(len(split)).split(EVALUATION_BATCH):
                x, y = split.pixels(index).to(device), split.labels[index].to(device)
                seeds = sample_seeds(seed, "pairs", index).to(device)
                view = View.on(Bare(model), seeds, whole_batches=True)
                goal = Goal.untargeted(y)
                craft = partial(self.function, view, x, goal, self.budget, seeds, **self.parameters)
                made.append(kept(craft, device).detach().cpu())
                advance(len(index))
        return torch.cat(made)


@dataclass(frozen=True)
class Pairs:
    """Clean images, and for each the one to be cleaned, (N, C, H, W) float32 in memory (it must not be rounded).

    With `with_clean` there are 2 * N pairs: the later half has every clean image on both sides.
    """

    clean: Split
    given: Tensor
    with_clean: bool = False

    @property
    def labels(self) -> Tensor:
        """(N,) int64, or (2 * N,)."""
        return self.clean.labels.repeat(len(self) // len(self.clean))

    def __len__(self) -> int:
        return len(self.clean) * (2 if self.with_clean else 1)

    def pixels(self, index: Tensor) -> Tensor:
        """(B, 2 * C, H, W): what is given, then what is wanted."""
        row = index % len(self.clean)
        clean = self.clean.pixels(row)
        attacked = (index < len(self.clean)).reshape(-1, 1, 1, 1)
        return torch.cat([torch.where(attacked, self.given[row], clean), clean], dim=1)

"""Defense-GAN's detector (Samangouei et al. 2018, eq. 9): how far an input lies from its reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rbg_defenses._reconstructions import Purify, purified
from robustbench_gan.contracts import Dataset
from robustbench_gan.seeds import sample_seeds
from robustbench_gan.training import Artifact, Store

DETECTOR_IMAGES = 1000  # validation images whose errors give the threshold


def quantile(errors: Tensor, fpr: float) -> Tensor:
    """The threshold that at most the share `fpr` of the errors (V,) lies above; never 0."""
    above = min(int(len(errors) * fpr), len(errors) - 1)
    found = errors.sort(descending=True).values[above]
    return found.clamp(min=torch.finfo(errors.dtype).tiny)


def distance(x: Tensor, rebuilt: Tensor) -> Tensor:
    """The mean over pixels of the squared difference, (N,): eq. 9 over the number of pixels."""
    return (x - rebuilt).square().flatten(1).mean(dim=1)


def validation_errors(
    purify: Purify, recipe: Mapping[str, Any], data: Dataset, seed: int, store: Store, device: torch.device
) -> Artifact:
    """The errors of the first validation images, (V,), under the projection that is judged, which `recipe` states."""
    images = min(DETECTOR_IMAGES, len(data.validation))

    def build() -> tuple[dict[str, Tensor], dict[str, float]]:
        x = data.validation.pixels(slice(0, images)).to(device)
        seeds = sample_seeds(seed, "defense-gan/validation", torch.arange(len(x), device=device))
        pairs = purified(purify, x, seeds)
        return {"errors": torch.cat([distance(x[rows], image) for rows, image in pairs])}, {}

    return store.fetch("defense-gan-errors", {**recipe, "seed": seed, "images": images}, build)

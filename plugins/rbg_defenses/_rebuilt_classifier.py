"""The classifier that has learned from reconstructions (Samangouei et al. 2018, section 4: Defense-GAN-Rec)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rbg_defenses._reconstructions import Reconstructions
from robustbench_gan.contracts import Dataset, Split
from robustbench_gan.training import Schedule, accuracy, cross_entropy, optimise, reinitialised, unfinished


def learn_from(
    made_by: Reconstructions,
    model: nn.Module,
    data: Dataset,
    kind: str,
    images: int,
    schedule: Schedule,
    seed: int,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Train a classifier anew on the first training images rebuilt, and for `both` on the originals beside them.

    Returns its weights and what is known of them.
    """
    rebuilt, _ = made_by.of(data.train, "train", images, seed)
    split = rebuilt
    if kind == "both":
        first = data.train.take(slice(0, len(rebuilt)))
        split = Split(torch.cat([first.images, rebuilt.images]), torch.cat([first.labels, rebuilt.labels]))
    reinitialised(model.requires_grad_(True), seed)
    seconds = optimise(
        model, split, cross_entropy(model), schedule, seed=seed,
        description=f"training the classifier on {kind}", checkpoint=unfinished(),
    )  # fmt: skip
    return model.state_dict(), {"validation_accuracy": accuracy(model, data.validation), "seconds": seconds}

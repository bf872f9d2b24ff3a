"""The substitute of a black-box attacker: trained on queries to an oracle, then attacked in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gan import progress
from robustbench_gan.data.dataset import Split
from robustbench_gan.models import Schedule
from robustbench_gan.outcome import REJECTED
from robustbench_gan.threat import Bare, View
from robustbench_gan.training import cross_entropy, device_of, optimise

RECIPE_VERSION = 1
STEP = 0.1  # lambda of the augmentation
SCHEDULE = Schedule(epochs=10, batch_size=50, lr=1e-3, one_cycle=False)

Oracle = Callable[[Tensor], Tensor]  # (N, C, H, W) to the labels it gives, (N,), -1 where rejected


@dataclass(frozen=True)
class Queried:
    """Images a substitute learns from: pixels as floats, since augmented ones leave the grid and the box."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: Tensor) -> Tensor:
        """(N, C, H, W) float32."""
        return self.images[index]


def papernot(
    substitute: nn.Module, seeds: Split, oracle: Oracle, *, rounds: int, seed: int
) -> dict[str, Any]:
    """Train a substitute by Jacobian augmentation (Papernot et al. 2017, algorithm 1; Defense-GAN, section 4).

    Starts from the held-out `seeds` with their true labels. Each of the `rounds` trains 10 epochs with a new
    Adam; between rounds every image is joined by itself plus 0.1 * sign of the gradient of the substitute's
    probability for its label, labelled by the oracle, not clipped. Six rounds of 150 images make 4,800 points
    and 4,650 queries. Points that the oracle rejects are left out. Returns points, queries and rejections.
    """
    device = device_of(substitute)
    images, labels = seeds.pixels().to(device), seeds.labels.to(device)
    queries = rejected = 0
    with progress.task(f"training substitute ({rounds} rounds)", rounds) as advance:
        for at in range(rounds):
            data = Queried(images, labels)
            loss = cross_entropy(substitute)
            optimise(substitute, data, loss, SCHEDULE, seed=seed + at, description=f"substitute {at + 1}")
            if at < rounds - 1:
                new = augment(substitute, images, labels)
                answers = oracle(new).to(device)
                kept = answers != REJECTED
                queries, rejected = queries + len(new), rejected + int((~kept).sum())
                images, labels = torch.cat([images, new[kept]]), torch.cat([labels, answers[kept]])
            advance(1)
    return {"points": len(labels), "queries": queries, "rejected": rejected, "rounds": rounds}


def augment(substitute: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """x + 0.1 * sign(d p_label / dx), (N, C, H, W), not clipped."""
    view = View.on(Bare(substitute), torch.zeros(len(images), dtype=torch.int64, device=images.device))

    def probability(out: Any) -> Tensor:
        return F.softmax(out.logits, dim=1).gather(1, labels[:, None])[:, 0]

    _, grad, _ = view.value_and_grad(probability, images)
    return images + STEP * grad.sign()

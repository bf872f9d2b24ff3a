"""The substitute of a black-box attacker: trained on queries to an oracle, then attacked in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gan.base import progress
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.data.dataset import Split
from robustbench_gan.models.schedule import Schedule
from robustbench_gan.nouns.outcome import REJECTED
from robustbench_gan.training.checkpoint import unfinished
from robustbench_gan.training.loop import cross_entropy, optimise
from robustbench_gan.training.networks import device_of

if TYPE_CHECKING:
    from robustbench_gan.training.oracles import Oracle

STEP = 0.1  # lambda of the augmentation
PERIOD = 3  # augmentations after which a periodic step turns its sign
SCHEDULE = Schedule(epochs=10, batch_size=50, lr=1e-3, one_cycle=False)


@dataclass(frozen=True)
class Queried:
    """Images a substitute learns from: pixels as floats, since augmented ones leave the grid and the box.

    `labels` is (N,), or (N, K) where the oracle gave probabilities.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: Tensor) -> Tensor:
        """(N, C, H, W) float32."""
        return self.images[index]


def papernot(
    substitute: nn.Module,
    seeds: Split,
    oracle: Oracle,
    *,
    rounds: int,
    seed: int,
    step_sign: Literal["plus", "periodic"] = "plus",
) -> dict[str, Any]:
    """Train a substitute by Jacobian augmentation (Papernot et al. 2017, algorithm 1; Defense-GAN, section 4).

    Starts from the held-out `seeds` with their true labels. Each of the `rounds` trains 10 epochs with a new
    Adam; between rounds every image is joined by itself plus 0.1 * sign of the gradient of the substitute's
    probability for its label, labelled by the oracle, not clipped. Six rounds of 150 images make 4,800 points
    and 4,650 queries. `periodic` subtracts the step in the fourth to sixth augmentation, adds it in the next three,
    and so on. Points that the oracle rejects are left out. Returns points, queries and rejections.
    """
    device = device_of(substitute)
    images, labels = seeds.pixels().to(device), seeds.labels.to(device)
    queries = rejected = 0
    with progress.task(f"training substitute ({rounds} rounds)", rounds) as advance:
        for at in range(rounds):
            data = Queried(images, labels)
            loss = cross_entropy(substitute)
            optimise(
                substitute, data, loss, SCHEDULE, seed=seed + at, description=f"substitute {at + 1}",
                checkpoint=unfinished(),
            )  # fmt: skip
            if at < rounds - 1:
                turned = step_sign == "periodic" and at // PERIOD % 2 == 1
                new = augment(substitute, images, labels, step=-STEP if turned else STEP)
                answers = oracle(new).to(device)
                kept = answers != REJECTED
                queries, rejected = queries + len(new), rejected + int((~kept).sum())
                images, labels = torch.cat([images, new[kept]]), torch.cat([labels, answers[kept]])
            advance(1)
    return {"points": len(labels), "queries": queries, "rejected": rejected, "rounds": rounds}


def static(substitute: nn.Module, images: Split, oracle: Oracle, *, rounds: int, seed: int) -> dict[str, Any]:
    """Distil the oracle once: its answers on the attacker's own images are learnt in `rounds` passes over them.

    Xiao et al. 2018, section 3.3: the cross-entropy of the substitute against the oracle's labels or probabilities.
    Returns points, queries and rejections.
    """
    x = images.pixels().to(device_of(substitute))
    data, rejected = _told(x, oracle(x))
    _learn(substitute, data, rounds, seed)
    return {"points": len(data), "queries": len(x), "rejected": rejected, "rounds": rounds}


def dynamic(
    substitute: nn.Module,
    images: Split,
    oracle: Oracle,
    craft: Callable[[Tensor, Tensor], Tensor],
    fit: Callable[[int], object],
    *,
    rounds: int,
    seed: int,
) -> dict[str, Any]:
    """Distil and train a generator in turns (Xiao et al. 2018, section 3.3, dynamic distillation).

    Each of the `rounds` asks the oracle about the current examples, `craft(x, y)`, lets the substitute learn in one
    pass over the images and one over the examples, then lets the generator train on the new substitute: `fit(round)`.
    Returns points of a round, all queries and rejections.
    """
    x = images.pixels().to(device_of(substitute))
    answers, queries, rejected = oracle(x), len(x), 0
    for at in range(rounds):
        examples = craft(x, images.labels.to(x.device))
        data, missing = _told(torch.cat([x, examples]), torch.cat([answers, oracle(examples)]))
        queries, rejected = queries + len(x), rejected + missing
        _learn(substitute, data, 1, seed + at)
        fit(at)
    return {"points": 2 * len(x), "queries": queries, "rejected": rejected, "rounds": rounds}


def _told(x: Tensor, answers: Tensor) -> tuple[Queried, int]:
    """The images that the oracle answered, with its answers, and how many it rejected."""
    kept = answers != REJECTED if answers.ndim == 1 else answers.sum(dim=1) > 0
    return Queried(x[kept], answers[kept]), int((~kept).sum())


def _learn(substitute: nn.Module, data: Queried, epochs: int, seed: int) -> None:
    schedule = replace(SCHEDULE, epochs=epochs)
    optimise(
        substitute, data, cross_entropy(substitute), schedule, seed=seed, description="distilling substitute",
        checkpoint=unfinished(),
    )  # fmt: skip


def augment(substitute: nn.Module, images: Tensor, labels: Tensor, *, step: float = STEP) -> Tensor:
    """x + step * sign(d p_label / dx), (N, C, H, W), not clipped."""
    view = View.on(Bare(substitute), torch.zeros(len(images), dtype=torch.int64, device=images.device))

    def probability(out: Any) -> Tensor:
        return F.softmax(out.logits, dim=1).gather(1, labels[:, None])[:, 0]

    _, grad, _ = view.value_and_grad(probability, images)
    return images + step * grad.sign()

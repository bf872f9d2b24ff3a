"""BPDA through a network that was trained to imitate the purifier."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from rbg_attacks._encoder import Encoder, imitate
from rbg_attacks.pgd import pgd
from robustbench_gan.contracts import (
    Budget,
    Goal,
    TrainedAttack,
    Training,
    UsageError,
    View,
    attack,
    per_sample,
)
from robustbench_gan.seeds import fold, uniform
from robustbench_gan.training import device_of, kept


@attack(
    norms=("l1", "l2", "linf"),
    needs="gradient",
    passes=lambda p: p["steps"] + 1,
    gradient="bpda",
    paper="Athalye et al. 2018, arXiv 1802.00420",
)
class BpdaLearned(TrainedAttack):
    """BPDA (Athalye et al. 2018, section 4) whose stand-in is an encoder-decoder trained on (x, purify(x)).

    The pairs are `images` training images with a random perturbation of the budget, scaled by a uniform number, so that
    half of them are near clean; `epochs` passes over them. Crafts by PGD of `steps` without a random start.
    Raises UsageError for fewer than one of anything.
    """

    conditional = True  # what the purifier does depends on no goal

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        steps: int = 40,
        images: int = 2000,
        epochs: int = 100,
        batch_size: int = 100,
        lr: float = 2e-3,
    ) -> None:
        super().__init__(shape, classes)
        if min(steps, images, epochs, batch_size) < 1 or lr <= 0:
            raise UsageError(
                "bpda-learned needs steps, images, epochs, batch_size >= 1 and lr > 0, "
                f"not {steps}, {images}, {epochs}, {batch_size}, {lr}."
            )
        self.steps, self.images, self.epochs, self.batch_size, self.lr = steps, images, epochs, batch_size, lr
        self.encoder = Encoder(shape)

    def fit(self, training: Training, goal_class: int | None, budget: Budget, seed: int) -> dict[str, float]:
        """Purify the attacker's images once and imitate that; the facts are the steps and the last batch's error."""
        device, count = device_of(self), min(self.images, len(training.data))
        each = fold(torch.arange(count), "bpda-learned", seed)
        order = torch.argsort(fold(torch.arange(len(training.data)), "bpda-learned", seed))[:count]
        clean = training.data.pixels(order).to(device)
        each = each.to(device)
        noise = budget.random(clean, fold(each, "noise"))
        x = (clean + noise * per_sample(uniform(fold(each, "scale"), (1,))[:, 0], noise)).clamp(0, 1)
        rows = torch.arange(count).split(self.batch_size)
        purified = [kept(partial(training.view(each[r]).purified, x[r]), device) for r in rows]
        steps = max(1, round(training.share * self.epochs * len(purified)))
        error = imitate(
            self.encoder,
            x,
            torch.cat(purified),
            steps=steps,
            batch_size=self.batch_size,
            lr=self.lr,
            seed=seed,
        )
        self.eval()
        return {"steps": float(steps), "error": error}

    def forward(self, view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
        """PGD with the true defense forward and the encoder backward; its errors are those of `pgd`."""
        learned = view.through(lambda at, _: self.encoder(at))
        return pgd(learned, x, goal, budget, seed, steps=self.steps, random_start=False)

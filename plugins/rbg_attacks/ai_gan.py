"""AI-GAN: one generator for every target class, trained beside an attacker and a discriminator that classifies."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rbg_attacks._perturbation_gan import (
    Batch,
    Discriminator,
    Generator,
    PerturbationGAN,
    in_micro_batches,
    l2_hinge,
    least_squares,
    pull,
    within,
)
from rbg_attacks.pgd import pgd
from robustbench_gan.contracts import Bare, Budget, Goal, UsageError, View, attack
from robustbench_gan.seeds import fold, integers

FIRST_STAGE = (
    0.1  # of a training, in version 1: the part in which the attacker's examples stand for real ones
)


@attack(norms=("linf",), needs="gradient", paper="Bai et al. 2021, arXiv 2002.02196")
class AIGAN(PerturbationGAN):
    """AI-GAN (Bai et al. 2021, section 3): a generator of x and its target class, beside an attacker (PGD).

    `version=2`: the discriminator has a real-or-fake head S and a class head D. It lowers S's cross-entropy on
    clean images (real) and examples (fake), and D's towards the true class on clean images, on the attacker's
    and on the examples. The generator lowers L_target + gan_weight * L_S + class_weight * L_D: the target system's
    and D's cross-entropy towards the target class, and S's towards real. `version=1` (Bai et al. 2020): one head, a
    least-squares GAN loss, and the attacker's examples in the place of real images in the first tenth of the
    steps; the generator lowers L_target + gan_weight * L_GAN + hinge_weight * max(0, l2 norm - half the largest).
    `attacker_on` says what PGD attacks for `attacker_steps`: the target system (auto in version 1) or D (auto in 2).

    The target is drawn anew for every image and batch, so one training serves every class; an untargeted goal
    aims at the runner-up class, which costs one answer of the view. Crafting is one forward pass of the
    generator. The papers give no weights, these are ours. Raises UsageError for a value that is impossible,
    NotApplicable for an infinite eps.
    """

    conditional = True

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        version: Literal[1, 2] = 2,
        attacker_on: Literal["auto", "target", "disc"] = "auto",
        attacker_steps: int = 3,
        steps: int = 600,
        batch_size: int = 128,
        lr: float = 2e-3,
        gan_weight: float = 0.02,
        class_weight: float = 0.02,
        hinge_weight: float = 0.05,
    ) -> None:
        super().__init__(shape, classes)
        if min(gan_weight, class_weight, hinge_weight) < 0 or attacker_steps < 1:
            raise UsageError(
                "ai-gan needs gan_weight, class_weight and hinge_weight of 0 or more and attacker_steps >= 1, "
                f"not {gan_weight}, {class_weight}, {hinge_weight}, {attacker_steps}."
            )
        if version == 1 and attacker_on == "disc":
            raise UsageError("ai-gan:version=1 has no class head to attack: use attacker_on=target.")
        self.version, self.attacker_steps = version, attacker_steps
        self.on_target = attacker_on == "target" or (attacker_on == "auto" and version == 1)
        self.steps, self.batch_size, self.lr = steps, batch_size, lr
        self.gan_weight, self.class_weight, self.hinge_weight = gan_weight, class_weight, hinge_weight
        self.generator = Generator(shape[0] + classes, shape[0])
        self.discriminator = Discriminator(shape, 1 if version == 1 else 1 + classes)

    def goal_of(self, y: Tensor, goal_class: int | None, seed: Tensor) -> Goal:
        """A random wrong class for every image."""
        return Goal.targeted((y + 1 + integers(fold(seed, "target"), self.classes - 1)) % self.classes)

    def perturbed(self, batch: Batch) -> Tensor:
        """The batch with the generator's perturbation towards each image's target."""
        return within(batch.x, self.generator(self._joined(batch.x, batch.goal.classes)), batch.budget)

    def discriminator_loss(self, batch: Batch, adversarial: Tensor) -> Tensor:
        """Tells clean images from examples, and in version 2 classifies both and the attacker's."""
        if self.version == 1:
            first = batch.done < FIRST_STAGE
            real = self.discriminator(self._attacked(batch) if first else batch.x)
            return least_squares(real, True) + least_squares(self.discriminator(adversarial), False)
        images = torch.cat([batch.x, adversarial, self._attacked(batch)])
        source, classes = self._heads(images)
        real, fake, _ = source.chunk(3)
        return (
            F.softplus(-real).mean()
            + F.softplus(fake).mean()
            + 3 * F.cross_entropy(classes, batch.y.repeat(3))
        )

    def generator_loss(self, batch: Batch, adversarial: Tensor) -> Tensor:
        """The target system says the target class, and the discriminator is taken in."""
        on_target = pull(batch.view, lambda out: -batch.goal.loss(out), adversarial)
        if self.version == 1:
            bound = batch.budget.eps * math.sqrt(batch.x[0].numel()) / 2
            return (
                on_target
                + self.gan_weight * least_squares(self.discriminator(adversarial), True)
                + self.hinge_weight * l2_hinge(adversarial - batch.x, bound)
            )
        source, classes = self._heads(adversarial)
        as_target = F.cross_entropy(classes, batch.goal.classes)
        return on_target + self.gan_weight * F.softplus(-source).mean() + self.class_weight * as_target

    def forward(self, view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
        """Examples (N, C, H, W) for x of that shape."""
        targets = goal.classes
        if goal.kind == "untargeted":
            targets = view.output(x).logits.scatter(1, targets[:, None], -torch.inf).argmax(dim=1)
        return within(x, in_micro_batches(self.generator, self._joined(x, targets)), budget)

    def _joined(self, x: Tensor, targets: Tensor) -> Tensor:
        """Images with the target class as one-hot planes, (N, C + K, H, W)."""
        planes = F.one_hot(targets, self.classes).to(x.dtype)[:, :, None, None]
        return torch.cat([x, planes.expand(-1, -1, *x.shape[-2:])], dim=1)

    def _heads(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Real or fake, (N,), and class logits, (N, K)."""
        judged = self.discriminator(images)
        return judged[:, 0], judged[:, 1:]

    def _attacked(self, batch: Batch) -> Tensor:
        """The attacker's examples of the batch."""
        head = Bare(_ClassHead(self.discriminator))
        view = batch.view if self.on_target else View.on(head, batch.seed, whole_batches=True)
        made: Tensor = pgd(
            view, batch.x, batch.goal, batch.budget, fold(batch.seed, "attacker"), steps=self.attacker_steps
        )
        return made.detach()


class _ClassHead(nn.Module):
    """The class logits of a two-headed discriminator."""

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, K)."""
        judged: Tensor = self.discriminator(x)
        return judged[:, 1:]

"""AdvGAN: a generator that makes an adversarial perturbation in one forward pass."""

from __future__ import annotations

import math

from torch import Tensor

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
)  # fmt: skip
from robustbench_gan.contracts import Budget, Goal, Output, UsageError, View, attack


@attack(norms=("linf",), needs="gradient", paper="Xiao et al. 2018, arXiv 1801.02610")
class AdvGAN(PerturbationGAN):
    """AdvGAN (Xiao et al. 2018, eq. 4): L = L_adv + gan_weight * L_GAN + hinge_weight * L_hinge, on batch means.

    Untargeted one generator is trained with the true labels, targeted one a target class, on images of the others.
    L_adv is C&W's loss on logits, max(-margin, -kappa); L_GAN the least-squares GAN loss of a discriminator of
    clean and perturbed images; L_hinge is max(0, ||perturbation||_2 - hinge), where a `hinge` of 0 stands for
    half the l2 norm of the largest perturbation. The perturbation is eps * tanh(.), so it is inside the ball by
    construction; the paper gives no weights, these are ours. `steps` batches of `batch_size` images are
    taken with Adam at a rate that falls from `lr` to 0. Crafting is one forward pass of the generator, which
    asks the view nothing: success comes without a check that it is one. Raises UsageError for fewer than one step
    or image or a negative weight, NotApplicable for an infinite eps.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        steps: int = 300,
        batch_size: int = 128,
        lr: float = 1e-3,
        gan_weight: float = 0.05,
        hinge_weight: float = 0.05,
        hinge: float = 0.0,
        kappa: float = 2.0,
    ) -> None:
        super().__init__(shape, classes)
        self.steps, self.batch_size, self.lr = steps, batch_size, lr
        self.gan_weight, self.hinge_weight, self.hinge, self.kappa = gan_weight, hinge_weight, hinge, kappa
        if min(gan_weight, hinge_weight, hinge, kappa) < 0:
            raise UsageError(
                "advgan needs gan_weight, hinge_weight, hinge and kappa of 0 or more, "
                f"not {gan_weight}, {hinge_weight}, {hinge}, {kappa}."
            )
        self.generator = Generator(shape[0], shape[0])
        self.discriminator = Discriminator(shape)

    def perturbed(self, batch: Batch) -> Tensor:
        """The batch with the generator's perturbation."""
        return within(batch.x, self.generator(batch.x), batch.budget)

    def discriminator_loss(self, batch: Batch, adversarial: Tensor) -> Tensor:
        """Clean images are real, perturbed ones are not."""
        real, fake = self.discriminator(batch.x), self.discriminator(adversarial)
        return least_squares(real, True) + least_squares(fake, False)

    def generator_loss(self, batch: Batch, adversarial: Tensor) -> Tensor:
        """The sum of equation 4."""

        def missed(out: Output) -> Tensor:
            return (-batch.goal.margin(out)).clamp(min=-self.kappa)

        bound = self.hinge or batch.budget.eps * math.sqrt(batch.x[0].numel()) / 2
        return (
            pull(batch.view, missed, adversarial)
            + self.gan_weight * least_squares(self.discriminator(adversarial), True)
            + self.hinge_weight * l2_hinge(adversarial - batch.x, bound)
        )

    def forward(self, view: View, x: Tensor, goal: Goal, budget: Budget, seed: Tensor) -> Tensor:
        """Examples (N, C, H, W) for x of that shape; the view is not asked."""
        return within(x, in_micro_batches(self.generator, x), budget)

"""A defense of your own in ten lines, attacked as it should be: with its gradient, and around it.

Registered as a plugin it takes part in every matrix of `rbg evaluate` (docs/plugins.md); this is the same in one file.
"""

import torch

from robustbench_gan import run_attack
from robustbench_gan.contracts import Defense
from robustbench_gan.training import Workshop


class Squeeze(Defense):
    """Round every pixel to `levels` values."""

    purifies = True

    def __init__(self, base: torch.nn.Module, *, levels: int = 8) -> None:
        super().__init__(base)
        self.levels = levels
        self.fitted = True  # there is nothing to train

    def purify(self, x: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
        """The image that the classifier is shown."""
        return torch.round(x * (self.levels - 1)) / (self.levels - 1)


shop = Workshop()
data = shop.dataset("control-digits")
classifier, _ = shop.classifier(
    "control-digits", "small-cnn"
)  # trained in seconds at the first call, then kept
x, y = data.test.pixels(slice(0, 50)), data.test.labels[:50]
defense = Squeeze(classifier).eval()

# Rounding has a gradient of zero: the attack does nothing, and the flags say so. The number is not to be believed.
print("through its own gradient:", run_attack("pgd:steps=20", defense, x, y, epsilons=0.3, gradient="full"))
# BPDA takes the rounding for the identity on the way back.
print("around it, by BPDA:", run_attack("pgd:steps=20", defense, x, y, epsilons=0.3, gradient="bpda"))

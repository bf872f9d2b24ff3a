"""Defenses with detectors whose verdicts a hand computes, registered by `test_detection`."""

from __future__ import annotations

from torch import Tensor, nn

from robustbench_gan.contracts.defense import Defense
from robustbench_gan.nouns.seeds import normal


def brightness(x: Tensor) -> Tensor:
    """The mean of the pixels, (N, 1)."""
    return x.flatten(1).mean(dim=1, keepdim=True)


class Bright(Defense):
    """Rejects images brighter than `threshold`."""

    detectors = ("brightness",)

    def __init__(self, base: nn.Module, *, threshold: float = 0.5) -> None:
        super().__init__(base)
        self.threshold = threshold

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        return brightness(x) - self.threshold


class BothWays(Bright):
    """Rejects what is brighter or darker than `threshold` by more than `width`, and names no detector."""

    detectors = ()

    def __init__(self, base: nn.Module, *, threshold: float = 0.5, width: float = 0.05) -> None:
        super().__init__(base, threshold=threshold)
        self.width = width

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        above = brightness(x) - self.threshold
        return above.new_tensor([[1.0, -1.0]]) * above - self.width


class Unsure(Bright):
    """As Bright, with a threshold that is drawn anew for each sample and seed."""

    randomised = True

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        return super().scores(x, purified, seed) + 0.05 * normal(seed, (1,))

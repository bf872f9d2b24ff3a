"""Bit-depth reduction: the image with fewer grey levels."""

from __future__ import annotations

from torch import Tensor, nn

from robustbench_gan.contracts import Defense, Gradient, UsageError


class BitDepth(Defense):
    """Bit-depth reduction (Xu et al. 2018, feature squeezing): round(x * (2^b - 1)) / (2^b - 1), b = `bits`.

    A cheap purifier to compare with: a perturbation survives where it crosses half a level, so strength falls with
    every bit. Its slope is 0 wherever it has one, which is no gradient to attack by: `full` is refused, BPDA with
    the identity (Athalye et al. 2018) applies. The default is ours. Not random. Raises UsageError for `bits`
    outside 1 to 8.
    """

    purifies = True

    def __init__(self, base: nn.Module, *, bits: int = 4) -> None:
        super().__init__(base)
        if not 1 <= bits <= 8:
            raise UsageError(
                f"bit-depth:bits={bits} is no depth of an image: give 1 (two levels) to 8 (256)."
            )
        self.steps = 2**bits - 1

    @property
    def gradients(self) -> tuple[Gradient, ...]:
        """BPDA alone."""
        return ("bpda",)

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """The nearest level of each value, halves to the even level; detached, so that no slope of 0 passes for one."""
        squeezed: Tensor = (x.detach() * self.steps).round() / self.steps
        return squeezed

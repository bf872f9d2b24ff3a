"""Median smoothing: each pixel becomes the median of its neighbourhood."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustbench_gan.contracts import Dataset, Defense, UsageError
from robustbench_gan.training import Store


class Median(Defense):
    """Median smoothing (Xu et al. 2018, feature squeezing): the median of a window, channel by channel.

    A cheap purifier to compare with, strong against few changed pixels. `size` is the window's side; of an even
    number of values the upper middle one counts, and an even window reaches one further up and left. The border
    is mirrored, its own pixels included. The default is ours. Differentiable almost everywhere, each value passing
    its gradient to the pixel it was taken from, and not random. Raises UsageError for a size below 2 or above the
    image's sides.
    """

    purifies = True

    def __init__(self, base: nn.Module, *, size: int = 3) -> None:
        super().__init__(base)
        if size < 2:
            raise UsageError(f"median:size={size} makes no window: give 2 or more, 3 for 3x3 pixels.")
        self.size = size

    def why_not(self, shape: tuple[int, int, int], classes: int) -> str:
        """The window must fit into the image."""
        _, height, width = shape
        least = min(height, width)
        if self.size <= least:
            return ""
        return f"median:size={self.size} is wider than images of {height}x{width}: give at most {least}"

    def fit(self, data: Dataset, seed: int, store: Store) -> None:
        """Nothing is trained; only the size of the images is looked at."""
        if why := self.why_not(data.shape, len(data.classes)):
            raise UsageError(f"{why}.")

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """The filtered image, (N, C, H, W); every value is one of x."""
        rows, columns = (mirrored(side, self.size).to(x.device) for side in x.shape[2:])
        windows = x[:, :, rows][:, :, :, columns].unfold(2, self.size, 1).unfold(3, self.size, 1)
        # A stable order takes the centre where all are alike, so a flat area passes its gradient straight through.
        ordered = windows.flatten(4).sort(dim=4, stable=True).values
        return ordered[..., self.size**2 // 2]


def mirrored(side: int, size: int) -> Tensor:
    """Positions 0 to side - 1 with, at both ends, those that a window of `size` needs, the border counted twice."""
    at = torch.arange(-(size // 2), side + (size - 1) // 2)
    at = torch.where(at < 0, -1 - at, at)
    return torch.where(at >= side, 2 * side - 1 - at, at)

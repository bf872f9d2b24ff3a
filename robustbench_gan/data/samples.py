"""What training and attacks ask of labelled images: their number, labels and pixels by index."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Samples(Protocol):
    """Labelled images by index: a Split, or what a substitute collected."""

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""

    def __len__(self) -> int: ...

    def pixels(self, index: Tensor) -> Tensor:
        """(B, C, H, W) float32."""

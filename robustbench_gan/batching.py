"""Computing in micro-batches of one fixed shape.

The last bits of a floating-point result depend on the shape of the batch it was computed in, so every model
runs on the same number of rows, the last ones padded; what a caller's batch size is cannot change a result.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MICRO_BATCH = {"cpu": 100, "cuda": 250}


def micro_batch_size(device: torch.device) -> int:
    """How many rows every computation on a device has."""
    return MICRO_BATCH.get(device.type, MICRO_BATCH["cpu"])


def micro_batches(count: int, device: torch.device) -> Iterator[tuple[Tensor, int]]:
    """Row indices of fixed length and how many of them are real: the rest repeat the first row of the chunk."""
    size = micro_batch_size(device)
    for start in range(0, count, size):
        rows = torch.arange(start, min(start + size, count), device=device)
        padding = rows[:1].expand(size - len(rows))
        yield torch.cat([rows, padding]), len(rows)

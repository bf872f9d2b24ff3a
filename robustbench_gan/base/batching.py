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


def pieces(count: int, device: torch.device) -> Iterator[tuple[slice | Tensor, int]]:
    """The rows of each micro-batch and how many of them are real: a slice, which copies nothing, where all are.

    The last ones are padded by repeating the first row of the piece.
    """
    size = micro_batch_size(device)
    for start in range(0, count, size):
        real = min(size, count - start)
        if real == size:
            yield slice(start, start + size), size
        else:
            rows = torch.arange(start, count, device=device)
            yield torch.cat([rows, rows[:1].expand(size - real)]), real


def micro_batches(count: int, device: torch.device) -> Iterator[tuple[Tensor, int]]:
    """The same with row indices of fixed length throughout."""
    for rows, real in pieces(count, device):
        whole = torch.arange(rows.start, rows.stop, device=device) if isinstance(rows, slice) else rows
        yield whole, real

"""Where to compute."""

from __future__ import annotations

import torch

from robustbench_gan.base.errors import UsageError


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda`. Raises UsageError for cuda where there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu or auto.")
    cuda = name != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if cuda else "cpu")

"""What the reference classifiers share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from robustbench_gan.models.schedule import Shape


def with_head(features: nn.Sequential, shape: Shape, *head: Callable[[int], nn.Module]) -> nn.Sequential:
    """Append layers of which the first is given the number of features."""
    with torch.no_grad():
        width = features.eval()(torch.zeros(1, *shape)).shape[1]
    features.train()
    return nn.Sequential(*features, *(make(width) for make in head))

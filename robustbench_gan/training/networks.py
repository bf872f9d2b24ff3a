"""Networks before and after training: drawn anew from a seed, frozen, and where they lie."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from robustbench_gan.base.errors import UsageError
from robustbench_gan.nouns.seeds import isolated, stable_hash


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters lie; the CPU for one that has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def fresh(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A newly initialised network, the same for the same seed."""
    with isolated(stable_hash(f"init/{seed}")):
        return factory()


def reinitialised(model: nn.Module, seed: int) -> nn.Module:
    """Draw every layer's weights anew, in place: the same architecture, untrained.

    Raises UsageError for a layer that holds weights and cannot draw them: it would stay trained.
    """
    with isolated(stable_hash(f"init/{seed}")):
        for name, module in model.named_modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif any(True for _ in module.parameters(recurse=False)):
                raise UsageError(
                    f"the layer {name or type(model).__name__!r} cannot be trained anew: give it a "
                    "reset_parameters() that draws its weights."
                )
    return model


def freeze(model: nn.Module) -> nn.Module:
    """Evaluation mode and no gradients for the weights: what every attacked or judged network is in."""
    return model.eval().requires_grad_(False)

"""Classifiers that take no hooks: scripted, frozen, exported, compiled, or called by a way of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn


class Program(nn.Module):
    """A classifier that is scripted, frozen, exported, compiled or called by a way of its own.

    The classes of these take no hooks, lose them in a copy or go around them.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.training = in_training_mode(inner)

    def forward(self, x: Tensor) -> Any:
        """Its answer."""
        return self.inner(x)

    def train(self, mode: bool = True) -> Program:
        """Set its mode, where it has one: an exported graph is what it was exported as."""
        self.training = mode
        if not _fixed(self.inner):
            self.inner.train(mode)
        return self

    def state_dict(self, *args: Any, **named: Any) -> Any:
        """The weights under their own names."""
        return self.inner.state_dict(*args, **named)

    def load_state_dict(self, *args: Any, **named: Any) -> Any:
        """Take weights under their own names."""
        return self.inner.load_state_dict(*args, **named)


def _fixed(module: nn.Module) -> bool:
    """Is its mode part of a graph that cannot be changed any more?"""
    return "eval" in vars(module) or not hasattr(module, "training")


def in_training_mode(model: nn.Module) -> bool:
    """Is any part of it in training mode? One whose graph is fixed has no mode."""
    if _fixed(model):
        return False
    return model.training or any(in_training_mode(child) for child in model.children())


def is_program(model: nn.Module) -> bool:
    """Does it take no hooks of its own, or go around them?"""
    made = isinstance(model, torch.jit.ScriptModule | fx.GraphModule) or hasattr(model, "_orig_mod")
    return made or type(model).__call__ is not nn.Module.__call__

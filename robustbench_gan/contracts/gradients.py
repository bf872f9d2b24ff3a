"""The gradients through a purifier that an attacker may ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from robustbench_gan.base.tensors import form, plain

if TYPE_CHECKING:
    from robustbench_gan.contracts.defense import Defense

Gradient = Literal["full", "bpda", "truncated", "cut"]
Surrogate = Callable[[Tensor, Tensor], Tensor]
"""Images and seeds to images: a differentiable stand-in for `purify`."""
Step = Callable[["Defense", Tensor, Tensor], Tensor]
"""How one link's purifier is passed, with which gradient."""


class StraightThrough(torch.autograd.Function):
    """The value of one tensor with the gradient of another: the step BPDA takes (Athalye et al. 2018)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, surrogate: Tensor) -> Tensor:
        """Give `value`, bit for bit."""
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        """Send the gradient to the surrogate alone."""
        return None, grads[0]


def declared_gradients(defense: Defense) -> tuple[Gradient, ...]:
    """The gradients that `auto` is to try. Raises ValueError where a defense names none, or one that is unknown."""
    found, known = defense.gradients, [name for name in get_args(Gradient) if name != "cut"]
    if isinstance(found, str) or not found or not set(found) <= set(known):
        raise ValueError(
            f"{type(defense).__name__}.gradients is {found!r}, expected a tuple of some of {', '.join(known)}"
        )
    return found


def as_images(made: Tensor, x: Tensor, maker: str) -> Tensor:
    """What was made of x. Raises ValueError where it is not of the form of x; autocast makes shorter floats."""
    right = plain(made, x) and made.shape == x.shape
    shorter = right and made.is_floating_point() and torch.is_autocast_enabled(x.device.type)
    if not right or (made.dtype != x.dtype and not shorter):
        raise ValueError(f"{maker} returned {form(made)}, expected {form(x)}")
    return made


def through_purifier(stage: Defense, x: Tensor, seed: Tensor) -> Tensor:
    """Autograd's own gradient."""
    return stage.purify(x, seed)


def straight_through(stage: Defense, x: Tensor, seed: Tensor) -> Tensor:
    """BPDA of one purifier: its own value at x, and the gradient of its surrogate there."""
    with torch.no_grad():
        value = stage.purify(x, seed)
    name = type(stage).__name__
    stand_in = as_images(stage.surrogate(x, seed), x, f"{name}.surrogate")
    passed: Tensor = StraightThrough.apply(as_images(value, x, f"{name}.purify"), stand_in)  # type: ignore[no-untyped-call]
    return passed

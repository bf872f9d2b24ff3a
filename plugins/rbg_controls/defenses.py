"""Defended systems with one planted fault each; robustbench_gan.audit.controls says which flag is meant for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gan.contracts import Defense
from robustbench_gan.seeds import normal


class _Scaled(torch.autograd.Function):
    """The identity, with a backward pass that multiplies by a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * grads[0], None


class ZeroGradient(Defense):
    """Control: a gradient killer, the identity forwards and zeros backwards."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """x, (N, C, H, W), with a gradient of exactly 0."""
        killed: Tensor = _Scaled.apply(x, 0.0)  # type: ignore[no-untyped-call]
        return killed


class WrongGradient(Defense):
    """Control: the identity with its gradient reversed, so that every step of an attack leads away."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """x, (N, C, H, W), with minus its gradient."""
        reversed_: Tensor = _Scaled.apply(x, -1.0)  # type: ignore[no-untyped-call]
        return reversed_


class Noise(Defense):
    """Control: adds noise without declaring itself randomised; from its seeds, or from torch's global generator."""

    purifies = True

    def __init__(self, base: nn.Module, *, sigma: float = 0.3, seeded: bool = True) -> None:
        super().__init__(base)
        self.sigma, self.seeded = sigma, seeded

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """x + sigma * N(0, 1), clipped to [0, 1]."""
        noise = normal(seed, x.shape[1:]) if self.seeded else torch.randn_like(x)
        return (x + self.sigma * noise).clamp(0, 1)


class Quantiser(Defense):
    """Control: rounds pixels to a few levels as autograd does it, with a gradient of 0 almost everywhere."""

    purifies = True

    def __init__(self, base: nn.Module, *, levels: int = 8) -> None:
        super().__init__(base)
        self.levels = levels

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """The nearest of the levels, in [0, 1]."""
        return (x * (self.levels - 1)).round() / (self.levels - 1)


class Detached(Defense):
    """Control: a purifier that smooths and detaches what it returns."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """A mean over 3x3 pixels without a gradient."""
        return F.avg_pool2d(x.detach(), 3, stride=1, padding=1)


class SoftmaxOutput(Defense):
    """Control: answers with probabilities in the place of logits."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.core = nn.Sequential(base, nn.Softmax(dim=1))


class _Dropout(nn.Module):
    """Dropout that is always on, as of a functional call that forgot `training=self.training`."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3, training=True)


class AlwaysDropout(Defense):
    """Control: a classifier whose dropout never switches off."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.core = nn.Sequential(_Dropout(), base)


class BatchCoupled(Defense):
    """Control: takes the mean of the batch off each image, so that neighbours decide an image's answer."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """x - mean over the batch, clipped to [0, 1]."""
        return (x - x.mean(dim=0, keepdim=True)).clamp(0, 1)


class Stateful(Defense):
    """Control: counts its calls and gives every second one the negative image."""

    purifies = True

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.calls = 0

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """x and 1 - x in turns."""
        self.calls += 1
        return x if self.calls % 2 else 1 - x


class AnswersNaN(Defense):
    """Control: normalises each pixel by itself, which is 0 / 0 where one is black."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """x / x * x."""
        return x / x * x


class RejectsAll(Defense):
    """Control: a detector that rejects every input, so that nobody ever fools it."""

    detectors = ("everything",)

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        """(N, 1), above 0."""
        return x.new_ones(len(x), 1)


class SaturatedLogits(Defense):
    """Control: logits times a thousand, whose softmax is 1 and whose cross-entropy is flat."""

    def __init__(self, base: nn.Module, *, factor: float = 1000.0) -> None:
        super().__init__(base)
        self.core = _Multiplied(base, factor)


class _Multiplied(nn.Module):
    def __init__(self, base: nn.Module, factor: float) -> None:
        super().__init__()
        self.base, self.factor = base, factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x)
        return self.factor * logits


class WrongRange(Defense):
    """Control: a purifier that returns [-1, 1] to a classifier of [0, 1], as generators that end in tanh do."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        """2 x - 1."""
        return 2 * x - 1

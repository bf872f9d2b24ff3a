"""Systems with one fault each, for the check of an audit that is meant for it; registered by `installed_audit`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import on_the_path, plant
from planted_cells import UNTRAINED, Fixed
from planted_cells import bent as bent_network
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.gradients import StraightThrough
from robustbench_gan.models.schedule import trained
from robustbench_gan.nouns.seeds import bits, normal

MODELS = ("softmaxed", "dropped", "band", "basins")
DEFENSES = (
    "Coupled", "Remembers", "Descends", "Masked", "Inverted", "Killed", "NoisyGradient", "HiddenNoise", "Breaks",
)  # fmt: skip


def write_audit_site(root: Path) -> Path:
    """A directory that, on the path, installs the faults."""
    lines = ["[robustbench_gan.models]", *(f"audit-{n} = planted_audit:{n}" for n in MODELS)]
    lines += ["[robustbench_gan.defenses]", *(f"audit-{n.lower()} = planted_audit:{n}" for n in DEFENSES)]
    return plant(root, "planted-audit", "\n".join(lines), {})


@pytest.fixture(scope="module", autouse=True)
def installed_audit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The faults, installed for one test module."""
    root = write_audit_site(tmp_path_factory.mktemp("audit-site"))
    with on_the_path(root):
        yield root


# ---- classifiers


@trained(UNTRAINED)
def softmaxed(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Answers with probabilities."""
    return nn.Sequential(Fixed(classes, side=shape[1]), nn.Softmax(dim=1))


class Dropped(nn.Module):
    """Dropout that is always on."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        return self.base(F.dropout(x, 0.3, training=True))


@trained(UNTRAINED)
def dropped(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Dropped(bent_network(shape, classes))


class Narrow(nn.Module):
    """Right, as the known linear model is, but in narrow bands of the first pixel's value, `pitch` apart.

    The margin is the distance to the middle of the nearest band less its half-width, so its slope leads there. Only
    every `every`-th band is wrong where it is crossed; the others are dead ends.
    """

    def __init__(self, classes: int, pitch: float, half_width: float, every: int) -> None:
        super().__init__()
        self.base = Fixed(classes)
        self.pitch, self.half_width, self.every = pitch, half_width, every

    def forward(self, x: Tensor) -> Tensor:
        place = x[:, 0, 0, 0] / self.pitch
        depth = (place.frac() - 0.5).abs() - self.half_width
        dead = place.floor().long() % self.every != 0
        margin = torch.where(dead, depth + 0.5, depth)
        with torch.no_grad():
            top = F.one_hot(self.base(x).argmax(dim=1), self.base.weight.shape[0])
        return top * margin[:, None]


@trained(UNTRAINED)
def band(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """In a ball of eps 0.02 steps of eps / 16 find a band, those of eps / 8 jump over half; none holds an 8-bit value."""
    return Narrow(classes, pitch=5 / 255, half_width=0.032, every=1)


@trained(UNTRAINED)
def basins(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """One of four bands within eps 0.02 is wrong: which one a run ends in is up to its start."""
    return Narrow(classes, pitch=0.01, half_width=0.2, every=4)


# ---- defenses


class Purifier(Defense):
    purifies = True

    @property
    def gradients(self) -> Any:
        return ("full",)


class Coupled(Purifier):
    """Subtracts the mean of the batch."""

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x - x.mean(dim=0, keepdim=True) + 0.5


class Remembers(Purifier):
    """Adds a little of what it was shown last."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.last = torch.zeros(())

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        before, self.last = self.last, x.detach().mean(dim=0)
        return x + 2 * before


class Descends(Purifier):
    """One step of descent on the image's mean square."""

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(leaf.square().sum(), leaf)
        return x - 0.01 * slope


class _OtherGradient(torch.autograd.Function):
    """The identity with another gradient: one that is noise, or the true one times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seed: Tensor, kind: str) -> Tensor:
        ctx.save_for_backward(seed)
        ctx.kind = kind
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (seed,), (grad,) = ctx.saved_tensors, grads
        if ctx.kind == "noise":
            return normal(seed, grad.shape[1:]), None, None
        return (-grad if ctx.kind == "inverted" else 0 * grad), None, None


class Masked(Purifier):
    """Its gradient is noise."""

    kind = "noise"

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return _OtherGradient.apply(x, seed, self.kind)


class Inverted(Masked):
    """Its gradient leads away."""

    kind = "inverted"


class Killed(Masked):
    """Its gradient is connected, and zero."""

    kind = "zero"


class NoisyGradient(Purifier):
    """Each draw adds a huge gradient of either sign: alone it drowns the true one, in pairs it often cancels."""

    randomised = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        sign = (bits(seed, (1,))[:, 0] & 1).to(x.dtype) * 2 - 1
        return StraightThrough.apply(x, _Added.apply(x, sign))


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sign: Tensor) -> Tensor:
        ctx.save_for_backward(sign)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (sign,), (grad,) = ctx.saved_tensors, grads
        pattern = 1e3 * (torch.arange(grad[0].numel()).reshape(grad.shape[1:]) % 2 * 2.0 - 1)
        return grad + sign[:, None, None, None] * pattern, None


class HiddenNoise(Purifier):
    """Draws from torch's global generator, whatever seed it is given."""

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x + 0.3 * torch.randn_like(x)


class Breaks(Purifier):
    """Raises whatever it is asked."""

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        raise ArithmeticError("planted: breaks")

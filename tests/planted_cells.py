"""A data set and models with known answers or known faults, registered by `planted_plugins`.

Each is as small as its one property allows, and named after it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_gan.data.dataset import Dataset, Split
from robustbench_gan.models.schedule import Schedule, trained

SHAPE = (1, 4, 4)
PIXELS = 16
UNTRAINED = Schedule(epochs=0, one_cycle=False)  # the weights of the factory are the weights used


def grey(*, classes: int = 3, tests: int = 200, side: int = 4) -> Dataset:
    """Images of middle grey, in [0.25, 0.75], labelled by the known linear model: it is always right."""
    generator = torch.Generator().manual_seed(11)
    model = Fixed(classes, side=side)

    def split(n: int) -> Split:
        pixels = torch.randint(64, 192, (n, 1, side, side), generator=generator).to(torch.uint8)
        return Split(pixels, model(pixels.float() / 255).argmax(dim=1))

    names = tuple(f"class {c}" for c in range(classes))
    return Dataset("grey", names, split(60), split(20), split(tests))


class Fixed(nn.Module):
    """logits = weight @ (x - 1/2), with known weights."""

    def __init__(self, classes: int, seed: int = 3, side: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, side * side, generator=generator))

    def reset_parameters(self) -> None:
        """Other weights, to be trained from."""
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.weight.T


@trained(UNTRAINED)
def fixed(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The known linear model, not trained."""
    return Fixed(classes, side=shape[1])


def _away(z: Tensor, x: Tensor) -> Tensor:
    """NaN wherever a pixel is no multiple of 1/255, which those of clean images are."""
    moved = ((x * 255).round() / 255 - x).abs().flatten(1).amax(dim=1) > 1e-4
    return torch.where(moved[:, None], torch.nan, z)


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda z, x: (z, x),
    "dict": lambda z, x: {"logits": z},
    "double": lambda z, x: z.double(),
    "edits": lambda z, x: (z, x.mul_(0.5))[0],
    "away": _away,
    "masked": lambda z, x: z.masked_fill(torch.arange(z.shape[1]) == 2, -torch.inf),
    "coupled": lambda z, x: z - 3 * z.mean(dim=0, keepdim=True),
    "one": lambda z, x: z[:, :1],
    "few": lambda z, x: z[:, :2],
    "more": lambda z, x: torch.cat([z, z[:, :1] - 100], dim=1),
    "labels": lambda z, x: z.argmax(dim=1),
}


class Answers(Fixed):
    """The known linear model, whose answer has another form."""

    form = "tuple"

    def forward(self, x: Tensor) -> Any:
        return FORMS[self.form](super().forward(x), x)


@trained(UNTRAINED)
def answers(shape: tuple[int, int, int], classes: int, *, form: str = "tuple") -> nn.Module:
    """The known linear model with its answer in some form."""
    model = Answers(classes, side=shape[1])
    model.form = form
    return model


@trained(UNTRAINED)
def bent(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A small network with fixed weights, for which the optimum is not known."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(shape[0], 3, 3, padding=1), nn.Tanh(), nn.Flatten(),
            nn.Linear(3 * shape[1] * shape[2], classes),
        )  # fmt: skip


@trained(Schedule(epochs=2, batch_size=30, lr=0.05))
def quick(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A linear model that is trained."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


class Sharp(Fixed):
    """The known model with logits so far apart that its cross-entropy has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * super().forward(x)


class Stepped(Fixed):
    """The known model's class in the place of its logits: no loss has a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * (1e4 * super().forward(x)).softmax(dim=1)


class Softmaxed(Fixed):
    """The known model with probabilities for logits."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(dim=1)


class Dropped(Fixed):
    """The known model behind dropout that is always on."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.2, training=True))


@trained(UNTRAINED)
def read(shape: tuple[int, int, int], classes: int, *, path: str = "") -> nn.Module:
    """The known linear model with the weights in a file, one number a line; those it has without one."""
    model = Fixed(classes, side=shape[1])
    if path:
        numbers = [float(line) for line in Path(path).read_text().split()]
        model.weight = nn.Parameter(torch.tensor(numbers).view_as(model.weight))
    return model


@trained(UNTRAINED)
def sharp(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Saturated logits."""
    return Sharp(classes, side=shape[1])


@trained(UNTRAINED)
def stepped(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Logits of 10 and 0."""
    return Stepped(classes, side=shape[1])


@trained(UNTRAINED)
def softmaxed(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Probabilities."""
    return Softmaxed(classes, side=shape[1])


@trained(UNTRAINED)
def dropped(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Dropout in evaluation mode."""
    return Dropped(classes, side=shape[1])

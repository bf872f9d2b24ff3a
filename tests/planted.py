"""Systems whose right answers are known in closed form, and plugins written to disk."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Bare, System
from robustbench_gan.contracts.view import View
from robustbench_gan.data.dataset import Dataset, Split
from robustbench_gan.nouns.seeds import normal, sample_seeds

SHAPE = (1, 4, 4)


def images(count: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Tensor:
    """`count` random images in [0, 1], the same for the same seed."""
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def seeds(count: int, cell: int = 0) -> Tensor:
    return sample_seeds(cell, "test", torch.arange(count))


class Linear(nn.Module):
    """logits = weight @ x + bias with known numbers: every gradient is a row of `weight`."""

    def __init__(self, classes: int = 3, shape: tuple[int, ...] = SHAPE, seed: int = 1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        size = int(torch.tensor(shape).prod())
        self.weight = nn.Parameter(torch.randn(classes, size, generator=generator))
        self.bias = nn.Parameter(torch.randn(classes, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


class WrongInBfloat16(nn.Module):
    """Answers class 1 whenever it computes in bfloat16."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x).float()
        if torch.is_autocast_enabled("cpu"):
            logits = logits + 50.0 * (torch.arange(logits.shape[1]) == 1)
        return logits


def flatter(classes: int = 3, seed: int = 1) -> Linear:
    """A linear model whose classes meet in the middle of the box, so boundaries are close to the images."""
    model = Linear(classes, seed=seed)
    with torch.no_grad():
        model.bias.copy_(0.1 * model.bias - 0.5 * model.weight.sum(dim=1))
    return model


def optimum(model: Linear, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """The smallest size that takes two-class samples over the boundary inside the box, (N,), to 1e-4 or better.

    A value i moved by d_i closes the gap by |w_i| d_i, up to its room: l0 and l1 take the best values first, l2 and
    linf move all along w or its sign, as far as each can go, by bisection on how far.
    """
    rows = torch.arange(len(x))
    with torch.no_grad():
        logits = model(x).double()
        w = (model.weight[1 - y] - model.weight[y]).double()
    gap, flat = logits[rows, y] - logits[rows, 1 - y], x.flatten(1).double()
    room, w_abs = torch.where(w > 0, 1 - flat, flat), w.abs()
    if norm == "l0":
        gain = (w_abs * room).sort(dim=1, descending=True).values.cumsum(dim=1)
        return (gain < gap[:, None]).sum(dim=1) + 1.0
    if norm == "l1":
        order = w_abs.argsort(dim=1, descending=True)
        room, w_abs = room.gather(1, order), w_abs.gather(1, order)
        gain = (room * w_abs).cumsum(dim=1)
        last = (gain < gap[:, None]).sum(dim=1, keepdim=True)
        before = (gain - room * w_abs).gather(1, last)[:, 0]
        return (room.cumsum(dim=1) - room).gather(1, last)[:, 0] + (gap - before) / w_abs.gather(1, last)[
            :, 0
        ]
    way = w_abs if norm == "l2" else torch.ones_like(w_abs)
    low, high = torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), 100.0, dtype=torch.float64)
    for _ in range(60):
        mid = (low + high) / 2
        short = (w_abs * torch.minimum(mid[:, None] * way, room)).sum(dim=1) < gap
        low, high = torch.where(short, mid, low), torch.where(short, high, mid)
    moved = torch.minimum(high[:, None] * way, room)
    return moved.norm(p=2, dim=1) if norm == "l2" else moved.amax(dim=1)


def view_of(system: nn.Module | System, count: int, **options: Any) -> View:
    """The view of an attacker on so many images: of a bare network, or of a system."""
    return View.on(Bare(system) if isinstance(system, nn.Module) else system, seeds(count), **options)


def conv(classes: int = 3, shape: tuple[int, int, int] = SHAPE, seed: int = 2) -> nn.Module:
    """A small smooth convolutional network with fixed weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(shape[0], 4, 3, padding=1), nn.Softplus(), nn.Flatten(),
            nn.Linear(4 * shape[1] * shape[2], classes),
        ).eval()  # fmt: skip


class Scale(Defense):
    """Purifies by multiplying; its surrogate multiplies by something else, so the two gradients differ."""

    purifies = True

    def __init__(self, base: nn.Module, *, factor: float = 0.5, stand_in: float = 1.0) -> None:
        super().__init__(base)
        self.factor, self.stand_in = factor, stand_in

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x * self.factor

    def surrogate(self, x: Tensor, seed: Tensor) -> Tensor:
        return x * self.stand_in


class Shift(Defense):
    """Purifies by adding a constant: does not commute with Scale."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x + 0.25


class Round(Defense):
    """A purifier that autograd cannot see through."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return (x.detach() * 8).round() / 8


class Noise(Defense):
    """Adds N(0, sigma^2) noise, drawn from each sample's seed."""

    purifies = True
    randomised = True

    def __init__(self, base: nn.Module, *, sigma: float = 0.5) -> None:
        super().__init__(base)
        self.sigma = sigma

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x + self.sigma * normal(seed, x.shape[1:])


class Square(Defense):
    """Squares `steps` times; truncated, the gradient passes the last `steps` squarings only."""

    purifies = True
    unrolls = True
    rounds = 3

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return self.truncated(x, seed, self.rounds)

    def truncated(self, x: Tensor, seed: Tensor, steps: int) -> Tensor:
        # The value is x^8; the gradient is that of the last `steps` of three squarings, started from x.
        start = x.detach() ** (2 ** (self.rounds - steps))
        start = start + (x - x.detach())  # connects, with slope 1
        for _ in range(steps):
            start = start * start
        return start


class Detector(Defense):
    """Rejects bright images: one score, the mean of the pixels over a threshold."""

    def __init__(self, base: nn.Module, *, threshold: float = 0.5) -> None:
        super().__init__(base)
        self.threshold = threshold
        self.scale = nn.Linear(2, 2)

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        return x.flatten(1).mean(dim=1, keepdim=True) - self.threshold

    def parts(self) -> dict[str, nn.Module]:
        return {"scale": self.scale}


class Seen(Defense):
    """Remembers the seeds it was given."""

    purifies = True

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.seen: list[Tensor] = []

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        self.seen.append(seed.clone())
        return x


class Retrained(Defense):
    """Replaces the classifier in `fit` and remembers the one it stood on."""

    def __init__(self, base: nn.Module, *, name: str = "new") -> None:
        super().__init__(base)
        self.label = name
        self.stood_on: tuple[nn.Module, str] | None = None

    def fit(self, data: object, seed: int, store: object) -> None:
        self.stood_on = (self.base, self.base_key)
        self.core = nn.Sequential(self.base)

    def training_keys(self) -> dict[str, str]:
        return {"core": self.label}


def separable(count: int = 64, shape: tuple[int, int, int] = SHAPE, classes: int = 2) -> Dataset:
    """Dark images are class 0, bright ones the last: any classifier must learn it."""
    generator = torch.Generator().manual_seed(5)

    def split(n: int) -> Split:
        labels = torch.arange(n) % classes
        noise = torch.randint(0, 20, (n, *shape), generator=generator)
        level = (labels * (200 // (classes - 1))).reshape(-1, 1, 1, 1)
        return Split((level + noise).to(torch.uint8), labels)

    return Dataset("separable", tuple(map(str, range(classes))), split(count), split(32), split(32))


def plant(
    root: Path,
    name: str,
    entry_points: str,
    files: dict[str, str],
    version: str = "1.0",
) -> Path:
    """Write an installed distribution under `root`, as pip would leave it: metadata and modules."""
    info = root / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(entry_points)
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return root


@contextmanager
def on_the_path(root: Path) -> Iterator[Path]:
    """What is planted under `root`, installed meanwhile."""
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    try:
        yield root
    finally:
        sys.path.remove(str(root))
        importlib.invalidate_caches()

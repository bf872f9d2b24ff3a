"""What a projection makes of training and validation images: kept in the store, made in pieces, shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from robustbench_gan.contracts import Split, micro_batches
from robustbench_gan.seeds import sample_seeds
from robustbench_gan.training import Store, kept, progress, recipe_key

PIECE = 500  # images an artifact
Purify = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Reconstructions:
    """The nearest images of a generator's range to the first images of a split, in the split's order.

    `recipe` is all that decides one but the images' place: generator, projection, data, seed. Each piece is an
    artifact of its own, so that an interrupted run goes on, and a larger set starts from a smaller one.
    """

    purify: Purify
    recipe: Mapping[str, Any]
    store: Store
    device: torch.device

    def of(self, split: Split, part: str, count: int, seed: int) -> tuple[Split, list[str]]:
        """The first `count` images rebuilt, as bytes, with their labels; and the keys of the pieces."""
        pieces = []
        count = min(count, len(split))
        with progress.task(f"reconstructing {count} images", count) as advance:
            for first in range(0, count, PIECE):
                # Always whole, so that no piece depends on how many images are asked for.
                index = torch.arange(first, min(first + PIECE, len(split)))
                recipe = self._piece(part, first, seed)
                build = partial(self._build, split, index, part, seed)
                artifact = self.store.fetch("reconstructions", recipe, build)
                pieces.append(artifact.tensors["images"])
                advance(len(index))
        rebuilt = torch.cat(pieces)[:count]
        return Split(rebuilt, split.labels[:count]), self.keys(split, part, count, seed)

    def keys(self, split: Split, part: str, count: int, seed: int) -> list[str]:
        """The keys of the pieces that `of` would take, without making any: what stands on them may be there already."""
        firsts = range(0, min(count, len(split)), PIECE)
        return [recipe_key("reconstructions", self._piece(part, first, seed)) for first in firsts]

    def _piece(self, part: str, first: int, seed: int) -> dict[str, Any]:
        return {**self.recipe, "part": part, "first": first, "seed": seed}

    def _build(
        self, split: Split, index: Tensor, part: str, seed: int
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        x, seeds = split.pixels(index).to(self.device), sample_seeds(seed, f"reconstructions/{part}", index)
        images = torch.cat([image for _, image in purified(self.purify, x, seeds.to(self.device))])
        return {"images": (images * 255).round().to(torch.uint8).cpu()}, {"images": float(len(images))}


@torch.no_grad()
def purified(purify: Purify, x: Tensor, seed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Which images, (B,), and what a purifier makes of them: a micro-batch of the engine's own shape at a time."""
    for rows, real in micro_batches(len(x), x.device):
        yield rows[:real], kept(partial(purify, x[rows], seed[rows]), x.device)[:real]

"""What a purifier leaves of the images: how those that its classifier is shown relate to those it was given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Defended
from robustbench_gan.flags.counting import OUTSIDE
from robustbench_gan.nouns.evidence import Shown
from robustbench_gan.nouns.outcome import Output


class Watched:
    """A defended system that answers as ever, and notes meanwhile what its classifier is shown for n images."""

    defended = True

    def __init__(self, defense: Defense, n: int) -> None:
        self._system, self._left, self._seen = Defended(defense), n, 0
        self._outside = 0.0
        self._totals: list[Tensor] = [
            torch.zeros(()),
            torch.zeros(()),
        ]  # of the images given, and of those shown
        self._squares = [0.0, 0.0, 0.0]  # of both, and of their product

    def __call__(self, x: Tensor, seed: Tensor) -> Output:
        """The defense's answer to a micro-batch, whose rows beyond the n-th image are padding."""
        with shown_to(self._system.defense.core) as shown:
            out = self._system(x, seed)
        real = min(len(x), self._left)
        if real and shown and shown[0].shape == x.shape:
            self._left -= real
            self._seen += real
            self._note(x[:real], shown[0][:real].to(x.dtype))
        return out

    def _note(self, x: Tensor, shown: Tensor) -> None:
        low, high = float(shown.amin()), float(shown.amax())
        if not (low >= -OUTSIDE and high <= 1 + OUTSIDE):
            self._outside += float(((shown < -OUTSIDE) | (shown > 1 + OUTSIDE)).sum())
        a, b = x.flatten(1), shown.flatten(1)
        self._totals = [
            total + part.sum(dim=0).double() for total, part in zip(self._totals, (a, b), strict=True)
        ]
        pairs = ((a, a), (b, b), (a, b))
        self._squares = [
            square + float(torch.dot(one.flatten(), other.flatten()))
            for square, (one, other) in zip(self._squares, pairs, strict=True)
        ]

    def facts(self) -> Shown:
        """What was seen; as of a defense that changes nothing where nothing was."""
        if not self._seen:
            return Shown()
        n, (a, b), (aa, bb, ab) = self._seen, self._totals, self._squares
        values = n * len(a)
        told = {"outside": self._outside / values, "distance": max(aa + bb - 2 * ab, 0) / values}
        given, left, shared = aa - float(a @ a) / n, bb - float(b @ b) / n, ab - float(a @ b) / n
        if not given > ROUNDING * aa:  # one image, or many that are alike, tell nothing
            return Shown(**told)
        if not left > ROUNDING * bb:  # nor is NaN
            return Shown(**told, spread=0.0, likeness=0.0)
        return Shown(**told, spread=left / given, likeness=shared / (given * left) ** 0.5)


ROUNDING = 1e-5  # of a sum of squares: a variance below this is none


@contextmanager
def shown_to(core: nn.Module) -> Iterator[list[Tensor]]:
    """The images that the classifier is given meanwhile."""
    shown: list[Tensor] = []
    hook = core.register_forward_pre_hook(lambda _, given: shown.append(given[0].detach()))
    try:
        yield shown
    finally:
        hook.remove()

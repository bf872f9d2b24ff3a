"""Defenses with a known fault or a known answer, registered by `planted_plugins` and named after it."""

from __future__ import annotations

import os
import signal

import torch
from planted_cells import Fixed
from torch import Tensor, nn

from robustbench_gan.contracts.defense import Defense
from robustbench_gan.nouns.seeds import normal

# ---- defenses with a fault


class RejectAll(Defense):
    """Rejects everything."""

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        return x.new_ones(len(x), 1)


class Detached(Defense):
    """A purifier without a gradient: it changes nothing else."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x.detach().clone()


class ZeroGradient(Defense):
    """A purifier whose gradient is connected, and exactly zero."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x.detach() + 0 * x


class AnswersNaN(Defense):
    """NaN for the image that `never_calls` and others brighten, a right answer for clean ones."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        bright = x.flatten(1).mean(dim=1) > 0.55
        return torch.where(bright[:, None, None, None], torch.nan, x)


class SecretlyRandom(Defense):
    """Says that it is deterministic, and is not."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x + 2 * normal(seed, x.shape[1:])


class FailsToFit(Defense):
    """Cannot be trained."""

    def fit(self, data: object, seed: int, store: object) -> None:
        raise ArithmeticError("planted: no convergence")


class ExitsWhereAsked(Defense):
    """Exits in its constructor, its training or its answer."""

    purifies = True

    def __init__(self, base: nn.Module, *, where: str = "init") -> None:
        super().__init__(base)
        self.where = where
        self._exit("init")

    def _exit(self, here: str) -> None:
        if self.where == here:
            raise SystemExit(0)

    def fit(self, data: object, seed: int, store: object) -> None:
        self._exit("fit")

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        self._exit("purify")
        return x * 1.0


class DiesInTraining(Defense):
    """Takes its whole process with it while it is trained. Never run it but apart."""

    def fit(self, data: object, seed: int, store: object) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Remembers(Defense):
    """Mixes in the first image that it was ever shown."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        before, self.first = getattr(self, "first", x[:1] * 0), x[:1].detach()
        return x + 2 * before


class OtherRange(Defense):
    """Speaks [-1, 1]."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return 2 * x - 1


class Untrained(Defense):
    """Gives back the negative of the image."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return (0.9 - 1.8 * (x - 0.5)).clamp(0, 1)


class Notices(Defense):
    """Rejects pixels that are no multiple of 1/255, by a detector without a gradient."""

    detectors = ("edited",)

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        levels = x.detach() * 255
        off = (levels - levels.round()).abs().flatten(1).amax(dim=1, keepdim=True)
        return off - 0.01


class Swaps(Defense):
    """Puts the network that knows every answer behind a purifier that does nothing, as if that had read the test."""

    purifies = True

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.core = Fixed(3)


class Descends(Defense):
    """Takes a step of descent while it answers."""

    purifies = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(leaf.square().sum(), leaf)
        return x - 1e-3 * slope


# ---- defenses with a known answer


class Lock(Defense):
    """Random: shows the classifier an all-different image where the first pixel guesses the seed's low bit.

    First pixels are 0 or 1 for a guess; the inverse image of the known linear model is never its class.
    """

    purifies = True
    randomised = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        guess = x[:, 0, 0, 0]
        opened = guess == (seed & 1).to(guess.dtype)
        return torch.where(opened[:, None, None, None], 1 - x, x)


class Noisy(Defense):
    """Random: adds N(0, 1/4) noise from each sample's seed."""

    purifies = True
    randomised = True

    def purify(self, x: Tensor, seed: Tensor) -> Tensor:
        return x + 0.5 * normal(seed, x.shape[1:])

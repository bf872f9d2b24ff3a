"""Randomness as an argument: one integer a sample, and noise that is a pure function of it.

The generator is counter-based (the finaliser of splitmix64 over seed and counter), so what a sample draws
does not depend on its batch, the order of calls, the device or any global state.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as a signed 64-bit integer
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's own is arithmetic)."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    """The splitmix64 finaliser: a bijection on 64-bit integers in which every bit depends on every bit."""
    value = (value ^ _shift(value, 30)) * _MIX_1
    value = (value ^ _shift(value, 27)) * _MIX_2
    return value ^ _shift(value, 31)


def stable_hash(text: str) -> int:
    """A signed 64-bit integer from a text, the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def sample_seeds(seed: int, purpose: str, index: Tensor) -> Tensor:
    """One integer a sample, (N,) int64, from (cell seed, purpose, sample index (N,))."""
    start = torch.full_like(index, stable_hash(f"{seed}/{purpose}"), dtype=torch.int64)
    return _mix(start + index.to(torch.int64) * _GOLDEN)


def judge_seeds(seed: int, k: int, x: Tensor, first: int) -> Tensor:
    """The judge's seeds of the images from `first` on, (N,) int64, for its k-th judgement."""
    index = torch.arange(first, first + len(x), device=x.device)
    return sample_seeds(seed, f"judge/{k}", index)


def fold(seed: Tensor, *with_: int | str | Tensor) -> Tensor:
    """A new independent seed a sample, (N,) int64, from an old one and counters, names or (N,) integers."""
    for item in with_:
        step = stable_hash(item) if isinstance(item, str) else item
        seed = _mix((seed + _GOLDEN) ^ _mix(torch.as_tensor(step, dtype=torch.int64, device=seed.device)))
    return seed


def bits(seed: Tensor, shape: Sequence[int]) -> Tensor:
    """64 random bits a value, (N, *shape) int64."""
    count = torch.arange(1, math.prod(shape) + 1, dtype=torch.int64, device=seed.device)
    return _mix(_mix(seed)[:, None] + count * _GOLDEN).reshape(len(seed), *shape)


def uniform(seed: Tensor, shape: Sequence[int]) -> Tensor:
    """Uniform noise in [0, 1), (N, *shape) float32, each row from its own integer."""
    return _shift(bits(seed, shape), 40).to(torch.float32) * 2.0**-24


def normal(seed: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal noise, (N, *shape) float32, by Box and Muller's transform.

    Computed in float64, so that the last bit of a float32 never depends on how a batch was vectorised.
    """
    raw = bits(seed, shape)
    radius = (-2 * ((_shift(raw, 32) + 1).to(torch.float64) * 2.0**-32).log()).sqrt()
    angle = (raw & 0xFFFFFFFF).to(torch.float64) * (2 * math.pi * 2.0**-32)
    return (radius * angle.cos()).to(torch.float32)


def signs(seed: Tensor, shape: Sequence[int]) -> Tensor:
    """Independent signs, (N, *shape) float32, -1 or +1."""
    return (bits(seed, shape) < 0).to(torch.float32) * 2 - 1


def integers(seed: Tensor, high: int) -> Tensor:
    """One integer a sample in [0, high), (N,) int64."""
    return _shift(bits(seed, (1,))[:, 0], 1) % high


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Run code that draws from torch's global generator (dropout, weight init) from `seed`, then restore it.

    Training is the one place where torch offers no other way; nothing outside the block sees the seed.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        _seed_torch(seed)
        yield


@contextmanager
def own_generators(seed: int) -> Iterator[list[str]]:
    """Give code that is not ours global generators of its own, from `seed`: torch's, numpy's and Python's.

    What it draws then repeats, and nothing outside the block sees that it did. Yields a list that at the end of the
    block names the generators it has moved.
    """
    moved: list[str] = []
    ours = np.random.get_bit_generator()  # type: ignore[attr-defined]
    pythons, torchs = random.getstate(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    # To read the state of numpy's takes a hundred times as long as to set another in its place.
    np.random.set_bit_generator(_SPARE)  # type: ignore[attr-defined]
    first = _first_draws(seed)
    _seed_all(seed)
    try:
        yield moved
    finally:
        moved += [name for name, draw in _draws().items() if draw != first.get(name, draw)]
        np.random.set_bit_generator(ours)  # type: ignore[attr-defined]
        random.setstate(pythons)
        torch.set_rng_state(torchs)
        for device, state in enumerate(devices):
            torch.cuda.set_rng_state(state, device)


_SPARE = np.random.MT19937(0)


def _seed_torch(seed: int) -> None:
    """As torch.manual_seed, which where CUDA is not in use takes 2 ms to note it down for later, and keeps the note."""
    torch.default_generator.manual_seed(seed & ((1 << 63) - 1))
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed & ((1 << 63) - 1))


def _seed_all(seed: int) -> None:
    _seed_torch(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


def _first_draws(seed: int) -> dict[str, int]:
    """What each global generator gives first after `seed`."""
    _seed_all(seed)
    return _draws()


def _draws() -> dict[str, int]:
    """The next number of each global generator: one that was not moved since it was seeded gives its first."""
    top = 1 << 62
    drawn = {
        "torch": int(torch.randint(top, (), device="cpu")),
        "numpy": int(np.random.randint(top)),
        "random": random.getrandbits(62),
    }
    if torch.cuda.is_initialized():
        drawn["torch.cuda"] = int(torch.randint(top, (), device="cuda"))
    return drawn

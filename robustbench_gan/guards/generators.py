"""The global generators of torch, numpy and random: read, and put back."""

from __future__ import annotations

import ctypes
import random
from typing import Any

import numpy as np
import torch

from robustbench_gan.guards.setting import Setting

_MT19937_BYTES = 4 * 625  # numpy's global generator: 624 words and a position


def _torch_generator() -> tuple[bytes, Any]:
    cuda = torch.cuda.get_rng_state().numpy().tobytes() if torch.cuda.is_initialized() else None
    return torch.get_rng_state().numpy().tobytes(), cuda


def _put_torch_generator(old: tuple[bytes, Any]) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(old[0]), dtype=torch.uint8))
    if old[1] is not None:
        torch.cuda.set_rng_state(torch.frombuffer(bytearray(old[1]), dtype=torch.uint8))


def _numpy_generator() -> tuple[Any, bytes]:
    """The generator and what it holds, as bytes: numpy's own way to ask for them takes 0.1 ms."""
    generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
    if not isinstance(generator, np.random.MT19937):
        return generator, b""
    return generator, ctypes.string_at(generator.ctypes.state_address, _MT19937_BYTES)


def _put_numpy_generator(old: tuple[Any, bytes]) -> None:
    generator, held = old
    if np.random.get_bit_generator() is not generator:  # type: ignore[attr-defined]
        np.random.set_bit_generator(generator)  # type: ignore[attr-defined]
    if held:
        ctypes.memmove(generator.ctypes.state_address, held, len(held))


GENERATORS: tuple[Setting, ...] = (
    Setting("torch's global generator", _torch_generator, _put_torch_generator),
    Setting("numpy's global generator", _numpy_generator, _put_numpy_generator),
    Setting("random's global generator", random.getstate, random.setstate),
)

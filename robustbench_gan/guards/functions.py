"""Functions that modules and classes hold: those of Python, numpy and torch, read, compared and put back."""

from __future__ import annotations

import builtins
import math
import operator
import random
import time
from typing import Any

import numpy as np
import torch
from torch.nn import functional

_SHARED = (
    builtins, math, random, time, np, np.random, torch, functional, torch.autograd, torch.Tensor, torch.nn.Module,
)  # fmt: skip


def functions_of(owner: Any) -> tuple[str, ...]:
    """Names of the functions that a module or a class holds itself, those that are private to a module aside."""
    public = (name for name in vars(owner) if isinstance(owner, type) or not name.startswith("_"))
    held = ((name, vars(owner)[name]) for name in public)
    return tuple(
        n for n, f in held if not isinstance(f, type) and (callable(f) or hasattr(type(f), "__get__"))
    )


_FUNCTIONS = [(owner, functions_of(owner)) for owner in _SHARED]
_GETTERS = [(vars(owner), operator.itemgetter(*names)) for owner, names in _FUNCTIONS]


def read_functions() -> list[tuple[Any, ...]]:
    """Those of each module and class, in turn."""
    try:
        return [get(held) for held, get in _GETTERS]
    except KeyError:  # one was deleted
        return [tuple(map(vars(owner).get, names)) for owner, names in _FUNCTIONS]


def put_functions(old: list[tuple[Any, ...]]) -> None:
    """Put back those that were replaced."""
    for (owner, names), found, now in zip(_FUNCTIONS, old, read_functions(), strict=True):
        for name, was, held in zip(names, found, now, strict=True):
            if held is not was:
                setattr(owner, name, was)

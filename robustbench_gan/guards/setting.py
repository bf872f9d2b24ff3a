"""One thing that all code of a process shares: how it is read, compared and put back. No torch."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One thing that code of a process shares: its name for readers, how it is read, and how a former value is put.

    `imports` may change it: then it is undone and held against nobody. `same` compares two of its
    values where a stranger may have made one.
    """

    name: str
    read: Callable[[], Any]
    put: Callable[[Any], object]
    imports: bool = False
    same: Callable[[Any, Any], bool] = operator.eq


memcmp = ctypes.CDLL(None).memcmp
memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
"""0 where so many bytes at two addresses are the same."""

_ITEMS = tuple.__basicsize__  # where in a tuple its items begin, each an address


def identical(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Are the items of two tuples the same objects? Equality is what a stranger's object says of itself."""
    size = len(one)
    return size == len(other) and not memcmp(
        id(one) + _ITEMS, id(other) + _ITEMS, size * ctypes.sizeof(ctypes.c_void_p)
    )


def all_identical(some: Sequence[tuple[Any, ...]], others: Sequence[tuple[Any, ...]]) -> bool:
    """`identical` of each of some tuples and its counterpart."""
    return all(map(identical, some, others))

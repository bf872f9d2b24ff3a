"""Comparisons by place in memory: the same bytes, the same objects. No torch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

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

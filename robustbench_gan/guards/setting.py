"""One thing that all code of a process shares: how it is read, compared and put back. No torch."""

from __future__ import annotations

import operator
from collections.abc import Callable
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

"""What all code of a process shares, such as torch's default type or the working directory: read, compared, put back.

A plugin that changes it would change the numbers of cells that know nothing of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from robustbench_gan.guards.generators import GENERATORS
from robustbench_gan.guards.interpreter import MORE
from robustbench_gan.guards.process import FIRST, LAST
from robustbench_gan.guards.torch_settings import TORCH

_STREAMS = (0, 1, 2)
SETTINGS = (*FIRST, *TORCH, *LAST)  # put back in this order


class Surroundings:
    """All of it as it is now; the `generators` are put back and held against nobody.

    What is looked at where a plugin runs that is not bundled comes with `thorough`, which takes half a millisecond.
    """

    def __init__(self, *, generators: bool = False, thorough: bool = False) -> None:
        self.thorough = thorough
        self._generators = [(setting, setting.read()) for setting in GENERATORS if generators]
        self._streams = [(fd, *_saved(fd)) for fd in _STREAMS]
        self._settings = (*SETTINGS, *MORE) if thorough else SETTINGS
        self._values = [setting.read() for setting in self._settings]
        self._modules = len(sys.modules)

    def put_back(self) -> list[str]:
        """Undo what was changed since, once; the names of what is nobody's to change."""
        changed = []
        for setting, old in zip(self._settings, self._values, strict=True):
            now = setting.read()
            if not (setting.same(now, old) if self.thorough else now == old):
                setting.put(old)
                if not (setting.imports and len(sys.modules) > self._modules):
                    changed.append(setting.name)
        for setting, old in self._generators:
            if setting.read() != old:
                setting.put(old)
        for fd, file, copy in self._streams:
            if _file(fd) != file:
                changed.append(f"file descriptor {fd}")
                with contextlib.suppress(OSError):  # the copy was closed as well
                    os.dup2(copy, fd)
        return changed


_COPIES: dict[int, tuple[Any, int]] = {}


def _saved(fd: int) -> tuple[Any, int]:
    """What a descriptor stands for, and a copy of it that is kept for as long as it stands for the same."""
    file = _file(fd)
    if fd not in _COPIES or _COPIES[fd][0] != file:
        with contextlib.suppress(OSError, KeyError):
            os.close(_COPIES.pop(fd)[1])
        _COPIES[fd] = file, os.dup(fd) if file else -1
    return _COPIES[fd]


def _file(fd: int) -> tuple[int, int] | None:
    """What a descriptor stands for; None where it is closed."""
    with contextlib.suppress(OSError):
        found = os.fstat(fd)
        return found.st_dev, found.st_ino
    return None


@contextmanager
def ordinary(device: torch.device) -> Iterator[None]:
    """Torch as it starts, float32 and no autocast, whatever the caller has set: answers are judged in float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)

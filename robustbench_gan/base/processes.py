"""Processes that a plugin started: found and killed, wherever they hid. Off Linux only its process group is known.

A plugin's process may leave its group, its session and its parent. Those that are orphaned fall to the nearest process
that adopts (`adopt_orphans`), and one whose parent died before is still known by a mark in its environment. No torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROC = Path("/proc")
MARK = "RBG_CELL"  # in the environment of a cell's process and of all that it starts
_SET_CHILD_SUBREAPER = 36
ROUNDS = 100  # of killing: what is killed may have started another one just before


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs, so that `descendants` finds them. Linux; nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@contextmanager
def marked() -> Iterator[str]:
    """Mark what is started inside the block; gives the mark."""
    mark, before = uuid.uuid4().hex, os.environ.get(MARK)
    os.environ[MARK] = mark
    try:
        yield mark
    finally:
        if before is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = before


def descendants(pid: int) -> set[int]:
    """The living processes below one, at any depth; none where there is no /proc."""
    parents = _parents()
    found: set[int] = set()
    grown = {pid}
    while grown:
        grown = {child for child, parent in parents.items() if parent in grown} - found
        found |= grown
    return found - {pid}


def marked_with(mark: str) -> set[int]:
    """The living processes that were started with a mark, this one left out."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for pid in _parents():
        with contextlib.suppress(OSError):
            if wanted in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found - {os.getpid()}


def end_tree(pid: int, mark: str) -> None:
    """Kill a process and all that it has started. It is stopped first, so that it starts nothing more meanwhile."""
    _send(pid, signal.SIGSTOP)
    for _ in range(ROUNDS):
        left = (descendants(pid) | marked_with(mark)) - {pid}
        if not left:
            break
        for one in left:
            _send(one, signal.SIGKILL)
        time.sleep(0.01)
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    _send(pid, signal.SIGKILL)


def end_descendants() -> None:
    """Kill all that this process has started."""
    for _ in range(ROUNDS):
        if not (left := descendants(os.getpid())):
            return
        for one in left:
            _send(one, signal.SIGKILL)
        time.sleep(0.01)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):  # it ended meanwhile
        os.kill(pid, number)


def _parents() -> dict[int, int]:
    """The parent of every living process; zombies wait for theirs to ask, and do nothing."""
    found = {}
    for entry in PROC.iterdir() if PROC.is_dir() else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    found[int(entry.name)] = int(parent)
    return found

"""A stranger's code that may end the process is tried in a copy of it first, so that only who needs that code fails.

Where a copy dies, Died is raised in its place; whatever else happens in it happens again in the process itself. On
Linux alone: elsewhere a copy of a process with threads is not safe, and nothing is tried. No torch.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import resource
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Hashable
from typing import Any

LIMIT = 30.0  # seconds: what takes longer has not ended the process, and is called without a trial
TICK = 0.02  # seconds between two looks at a copy whose end of the pipe somebody else may hold
_known: dict[Hashable, str] = {}  # how each trial ended: empty where the process goes on
_off: list[bool] = []


class Died(RuntimeError):
    """A plugin's code ended a copy of the process that tried it, and would end the process."""


def are_not_needed() -> None:
    """This process may die itself: it is a cell's own."""
    _off.append(True)


def tried(key: Hashable, call: Callable[[], Any]) -> None:
    """Call it in a copy of the process, once a key. Raises Died where that ends the copy; what it raises is ignored."""
    if _off or sys.platform != "linux":
        return
    if key not in _known:
        _known[key] = _ending(call)
    if how := _known[key]:
        raise Died(f"it ends the process {how}")


def _ending(call: Callable[[], Any]) -> str:
    """How it ends a copy of the process; empty where it does not, or not in LIMIT seconds."""
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of copies of processes with threads
        pid = os.fork()
    if not pid:
        _try(call, theirs)
    os.close(theirs)
    status = None
    try:
        status = _ended(pid, ours)
    finally:
        os.close(ours)
        if status is None:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.waitpid(pid, 0)
    if not status:
        return ""
    code = os.waitstatus_to_exitcode(status[0])
    return f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with exit code {code}"


def _ended(pid: int, ours: int) -> tuple[int] | tuple[()] | None:
    """The status of a copy that died; nothing where it said that it lives, None where it said nothing in time."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        if select.select([ours], [], [], TICK)[0] and os.read(ours, 1):
            os.waitpid(pid, 0)
            return ()
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            said = select.select([ours], [], [], 0)[0] and os.read(ours, 1)
            return () if said else (status,)
    return None


def _try(call: Callable[[], Any], theirs: int) -> None:
    """The copy: silent, on one thread, and at its end as soon as the call is."""
    try:
        faulthandler.disable()
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - theirs may hold locks of other threads
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)
        with contextlib.suppress(BaseException):
            call()
        os.write(theirs, b".")
    finally:
        os._exit(0)

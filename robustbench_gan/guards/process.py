"""What a process has one of, as the environment or signal handlers: read, compared and put back."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # what signal.getsignal wraps, at a thirtieth of its time
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from robustbench_gan.base.memory import all_identical, identical
from robustbench_gan.guards.functions import put_functions, read_functions
from robustbench_gan.guards.setting import Setting

_SIGNALS = sorted(signal.valid_signals())
_TIMERS = tuple(
    getattr(signal, name)
    for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF")
    if hasattr(signal, name)
)


_ENVIRONMENT = os.environ


def _put_filters(old: list[Any]) -> None:
    warnings.filters[:] = old  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _environment() -> dict[Any, Any]:
    if os.environ is not _ENVIRONMENT:
        return {}
    return dict(os.environ._data)  # type: ignore[attr-defined] # as bytes: decoding all of it takes 0.1 ms


def _put_environment(old: dict[Any, Any]) -> None:
    os.environ = _ENVIRONMENT  # noqa: B003 - it was there before
    for name in {*old, *_environment()}:
        key = os.fsdecode(name)
        if name in old:
            os.environ[key] = os.fsdecode(old[name])
        else:
            os.environ.pop(key, None)


def _directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - a Path takes longer than asking
    except FileNotFoundError:
        return ""


def _put_directory(old: str) -> None:
    if old:
        os.chdir(old)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _handlers() -> tuple[Any, ...]:
    return tuple(map(_signal.getsignal, _SIGNALS))


def _put_handlers(old: tuple[Any, ...]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, now, handler in zip(_SIGNALS, _handlers(), old, strict=True):
            if now is not handler and handler is not None:  # None: not of Python's making
                signal.signal(number, handler)


def _timers() -> tuple[bool, ...]:
    """Which of the process's alarms are set."""
    return tuple(signal.getitimer(which)[0] > 0 for which in _TIMERS)


def _put_timers(old: Sequence[bool]) -> None:
    for which, was in zip(_TIMERS, old, strict=True):
        if not was:
            signal.setitimer(which, 0)


def _printing() -> tuple[Any, ...]:
    return sys.stdin, sys.stdout, sys.stderr


def _put_printing(old: tuple[Any, ...]) -> None:
    sys.stdin, sys.stdout, sys.stderr = old


FIRST: tuple[Setting, ...] = (  # what would hinder the rest
    Setting(
        "a function of Python, numpy or torch",
        read_functions,
        put_functions,
        imports=True,
        same=all_identical,
    ),
    Setting("the alarms of the process", _timers, _put_timers),
    Setting("sys.stdin, sys.stdout or sys.stderr", _printing, _put_printing, same=identical),
    Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit, imports=True),
    Setting("the warning filters", lambda: list(warnings.filters), _put_filters, imports=True),
)


LAST: tuple[Setting, ...] = (
    Setting("numpy's handling of errors", np.geterr, lambda old: np.seterr(**old), imports=True),
    Setting("the environment", _environment, _put_environment, imports=True),
    Setting("the working directory", _directory, _put_directory),
    Setting("the umask", _umask, os.umask),
    Setting("the signal handlers", _handlers, _put_handlers, same=identical),
)

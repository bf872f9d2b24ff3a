"""What plugins print goes to standard error: standard output is for what a command was asked for. No torch."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_OUT, _ERR = 1, 2


@contextmanager
def aside() -> Iterator[None]:
    """All that is written to standard output inside, by compiled code and other processes as well, is sent to stderr.

    As a decorator: of a function that calls plugins and prints nothing on standard output itself.
    """
    _flush()
    try:
        kept = os.dup(_OUT)
        os.dup2(_ERR, _OUT)
    except OSError:  # one of the two is closed, so that nobody reads it
        kept = -1
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _flush()
        if kept >= 0:
            os.dup2(kept, _OUT)
            os.close(kept)


def _flush() -> None:
    """Write what waits in Python's and in C's buffers, to where it belongs now."""
    for stream in (sys.stdout, sys.__stdout__):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()  # type: ignore[union-attr]
    _libc().fflush(None)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)

"""The end of a run from outside, which no plugin can swallow, told from what a plugin raises, which ends nothing.

A command listens: each signal is noted where it arrives and raised in the main thread. Work in which one was noted is
not finished, whatever the plugin inside made of it; where nothing was, an exit or interrupt is the plugin's own
failure. A library call listens to nothing: there a KeyboardInterrupt is taken for the user's. No torch.
"""

from __future__ import annotations

import concurrent.futures.thread
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType, TracebackType

from robustbench_gan.base.errors import Fatal

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
GRACE = 10.0  # seconds that a plugin has to let go of the main thread; a second signal ends them
LINGER = 1.0  # seconds that a thread has when the command is over
CLOSING = 60.0  # seconds for what is still to be written when it does not
COPY = 70  # exit code of a copy of the process that a plugin made and sent back into ours


class Stopped(KeyboardInterrupt):
    """A signal ends the run."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class _Desk:
    """Where signals are noted; one a process."""

    listening: bool = False
    noted: int = 0  # the signal that arrived
    let_go: bool = False  # the main thread knows of it, and ends the run itself
    closers: list[Callable[[], None]] = field(default_factory=list)


_desk = _Desk()


def check() -> None:
    """Raise Stopped where a signal has arrived: a plugin may have swallowed the one that was raised inside it."""
    if _desk.noted and not _desk.let_go:
        raise Stopped(_desk.noted)


def pass_on(error: BaseException) -> None:
    """Raise it again, or Stopped, where it ends the run; come back where it is the failure of a plugin alone."""
    check()
    fatal = issubclass(type(error), Fatal)  # never isinstance: that asks the stranger's `__class__`
    if fatal or (issubclass(type(error), KeyboardInterrupt) and (_desk.let_go or not _desk.listening)):
        raise error


def is_users(interrupt: KeyboardInterrupt) -> bool:
    """Did somebody interrupt this, rather than a plugin raise it?"""
    return bool(_desk.noted) or not _desk.listening


def let_go() -> None:
    """Say that the main thread knows of the signal: it ends the run, and nobody else has to."""
    _desk.let_go = bool(_desk.noted)


class PluginCall:
    """Around a call of a plugin: what it must not outlive.

    A signal that the plugin swallowed is raised after it. A copy of this process that it forked and did not end goes
    no further.
    """

    def __enter__(self) -> None:
        self.process = os.getpid()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self.process:
            os._exit(COPY)
        check()


@contextmanager
def closing(close: Callable[[], None]) -> Iterator[None]:
    """Have `close` called if the run is ended inside the block although the main thread does not come out of it."""
    _desk.closers.append(close)
    try:
        yield
    finally:
        _desk.closers.remove(close)


@contextmanager
def listening() -> Iterator[None]:
    """Note signals inside the block, where they are not ignored already (nohup), and raise each as Stopped.

    Who does not come out of it within GRACE seconds, because a plugin swallows the interrupt or works outside Python,
    is ended with what `closing` names done, and with the exit code of the signal. Outside the main thread, and inside
    another such block, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread() or _desk.listening:
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    wakened = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    _desk.listening, _desk.noted, _desk.let_go = True, 0, False
    threading.Thread(target=_watch, args=(ours,), daemon=True, name="rbg signals").start()
    try:
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):
                signal.signal(number, _arrived)
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        signal.set_wakeup_fd(wakened)
        theirs.close()
        _desk.listening = False


def _arrived(number: int, frame: FrameType | None) -> None:
    _desk.noted = _desk.noted or number
    raise Stopped(number)


def _watch(received: socket.socket) -> None:
    """Wait for a signal beside the main thread, which a plugin may keep, and end the run if it does."""
    with received:
        if not (number := _next(received)):
            return
        _desk.noted = _desk.noted or number
        received.settimeout(GRACE)
        with contextlib.suppress(TimeoutError):
            if not _next(received):
                return
        if not _desk.let_go and _desk.listening:
            _end(number)


def _next(received: socket.socket) -> int:
    """The next of our signals; 0 where the block is over."""
    while arrived := received.recv(1):
        if arrived[0] in SIGNALS:
            return arrived[0]
    return 0


def _end(number: int) -> None:
    """Close what is open and end the process, whatever its main thread is at."""
    closing = threading.Thread(target=_close, daemon=True)
    closing.start()
    closing.join(CLOSING)
    with contextlib.suppress(Exception):
        sys.stderr.write(
            f"rbg: {ended_by(number)}. A plugin did not let go and was abandoned; what was finished is kept, and the "
            "same command goes on from there.\n"
        )
        sys.stderr.flush()
    os._exit(128 + number)


def abandon(before: Sequence[threading.Thread], code: int) -> None:
    """End the process with this code where a thread that began since would keep it: Python waits for those for ever.

    Workers of a pool end by themselves.
    """
    pools = set(concurrent.futures.thread._threads_queues)  # type: ignore[attr-defined]
    begun = [t for t in threading.enumerate() if not t.daemon and t not in before and t not in pools]
    for thread in begun:
        thread.join(LINGER)
    if not any(thread.is_alive() for thread in begun):
        return
    with contextlib.suppress(Exception):
        sys.stderr.write("rbg: a plugin left a thread running, which was abandoned.\n")
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def ended_by(number: int) -> str:
    """How a command that a signal ended calls that."""
    return "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"


def _close() -> None:
    for close in reversed(_desk.closers):
        with contextlib.suppress(Exception):
            close()


def _forked() -> None:
    """A copy of the process is no part of the run: signals mean to it what they mean to any process."""
    if _desk.listening:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            if signal.getsignal(number) is _arrived:
                signal.signal(number, signal.SIG_DFL)
        _desk.listening = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

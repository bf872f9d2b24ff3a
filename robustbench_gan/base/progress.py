"""Where long work reports how far it is: one call for the worker, any display for the caller."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Protocol

Advance = Callable[[float], None]


class Reporter(Protocol):
    """A display of running steps; the command line gives a rich one, a library call none."""

    def task(self, description: str, total: float) -> AbstractContextManager[Advance]:
        """Show a step of `total` units; the manager gives the function that advances it."""


class Silent:
    """Shows nothing."""

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Advance]:
        """Give an advance that does nothing."""
        yield lambda amount: None


_reporter: ContextVar[Reporter] = ContextVar("reporter")


def task(description: str, total: float) -> AbstractContextManager[Advance]:
    """Report a step of `total` units to the current display: `with task("training a", 10) as advance`."""
    return _reporter.get(Silent()).task(description, total)


@contextmanager
def reporting_to(reporter: Reporter) -> Iterator[None]:
    """Send every step inside the block to `reporter`."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)

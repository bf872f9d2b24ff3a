"""What the store has being built: where its unfinished parts lie on disk, and when they have to be written again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

SECONDS = 60.0  # of work that a kill may cost


class Pace:
    """When something is to be written: before a step as long as the last would make more than SECONDS to lose."""

    def __init__(self) -> None:
        self.written = self.asked = time.monotonic()

    def due(self) -> bool:
        """Asked after every step: must it be written now?"""
        now = time.monotonic()
        step, self.asked = now - self.asked, now
        return now - self.written + step > SECONDS

    def restart(self) -> None:
        """It is written."""
        self.written = self.asked = time.monotonic()


class Finished(NamedTuple):
    """A part that is made, and not written as long as little would be lost."""

    path: Path
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, float]


@dataclass
class Building:
    """One artifact while its `build` runs: its parts are counted, so that each finds its own file again.

    `beside` are tensors that every part writes as well and puts back, such as counts of passes; `origin` is all but the
    recipe that decides their bits. `before` are seconds that killed processes spent on what was taken from them.
    """

    stem: Path
    build: Callable[[], Any]
    parts: int = 0
    pace: Pace = field(default_factory=Pace)
    waiting: list[Finished] = field(default_factory=list)
    beside: dict[str, Tensor] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=lambda: time.perf_counter())
    before: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it took up to now, with what was killed in between."""
        return self.before + time.perf_counter() - self.started

    def took(self, seconds: float) -> None:
        """A part was taken from disk that was written when it had taken so long."""
        self.before += seconds - self.seconds

    def next_part(self) -> Path:
        """The file of the part that begins now."""
        self.parts += 1
        return self.stem.with_name(f"{self.stem.name}.{self.parts}.safetensors")


_current: ContextVar[Building | None] = ContextVar("building", default=None)


def current() -> Building | None:
    """What is being built, the innermost where one build asks for another artifact; None outside of all."""
    return _current.get()


@contextmanager
def being_built(root: Path, key: str, build: Callable[[], Any]) -> Iterator[Building]:
    """While the artifact of a key is built for the store in `root`."""
    building = Building(directory(root) / key, build)
    token = _current.set(building)
    try:
        yield building
    finally:
        _current.reset(token)


def directory(root: Path) -> Path:
    """Where a store keeps what is not finished."""
    return root / "unfinished"


def forget(root: Path, key: str = "") -> None:
    """Delete the parts of an artifact that is finished, or of all."""
    for path in directory(root).glob(f"{escape(key)}.*" if key else "*.safetensors"):
        with contextlib.suppress(OSError):  # another process deletes them as well
            path.unlink()

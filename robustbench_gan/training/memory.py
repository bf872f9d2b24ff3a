"""What cells share is made once and remembered, with the guard that is put on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from torch import nn

from robustbench_gan.base import stopping
from robustbench_gan.guards.belongings import Kept
from robustbench_gan.guards.seal import Seal
from robustbench_gan.nouns.outcome import Output

T = TypeVar("T")


class Judged(NamedTuple):
    """Answers of a defended system, and the seconds they took when they were asked."""

    out: Output
    seconds: float
    kept: Kept


class Failure(NamedTuple):
    """An error that making something ended in, and where."""

    error: BaseException
    traceback: TracebackType | None


@dataclass
class Memory:
    """Things by what decides them, each made at its first use."""

    memory: dict[Any, Any] = field(default_factory=dict, kw_only=True)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """Make a thing at its first use; an error is remembered as well, so that it is not run into twice."""
        if key not in self.memory:
            try:
                self.memory[key] = make()
            except BaseException as error:
                stopping.pass_on(error)
                self.memory[key] = Failure(error, error.__traceback__)
                raise
        found = self.memory[key]
        if isinstance(found, Failure):  # with the frames it had, and not with those of every cell before
            raise found.error.with_traceback(found.traceback)
        result: T = found
        return result

    def seal(self, module: nn.Module, name: str, without: Iterable[nn.Module] = ()) -> None:
        """Put a network that cells share under guard, as it is now."""
        self.memory["seal", id(module)] = Seal(module, name, without)

    def seals(self, *modules: nn.Module) -> list[Seal]:
        """Those of some networks, each once, for what has one."""
        keys = dict.fromkeys(("seal", id(module)) for module in modules)
        return [self.memory[key] for key in keys if key in self.memory]

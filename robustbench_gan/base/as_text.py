"""What is read from a text once, and is from there on a value that can be compared, sorted and written again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from functools import cached_property, lru_cache
from typing import Any, TypeVar

T = TypeVar("T", bound="AsText")


class AsText(ABC):
    """What is read from a text once and written as one again: equal, hashed and sorted as that text is.

    1, 1.0 and True are one key of a dict, and three parameters.
    """

    @abstractmethod
    def _canonical(self) -> str:
        """The one text of it that we would write."""

    @property
    def canonical(self) -> str:
        """The one text of it that we would write."""
        return self._canonical()

    @classmethod
    @abstractmethod
    def parse(cls: type[T], text: str) -> T:
        """Read it anew, whatever its text; it is then written as we would write it. Raises ValueError."""

    @classmethod
    def of(cls: type[T], given: T | str) -> T:
        """Itself, or read from a text, which stays its text to the letter: what a record says must not change.

        Raises ValueError for what cannot be read.
        """
        if isinstance(given, cls):
            return given
        if not isinstance(given, str):
            raise ValueError(f"expected a text, not {given!r:.60}")
        kind: Any = cls
        found: T = _to_the_letter(kind, given)
        return found

    @cached_property
    def _text(self) -> str:
        return self.canonical

    def spelt(self: T, text: str) -> T:
        """The same, written as this text: what a user or a record wrote stays as it was."""
        found = copy(self)
        vars(found)["_text"] = text
        return found

    def __str__(self) -> str:
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __lt__(self, other: AsText) -> bool:
        return self._text < other._text


@lru_cache(maxsize=8192)  # a thousand records name some dozen attacks and defenses
def _to_the_letter(kind: type[AsText], text: str) -> Any:
    return kind.parse(text).spelt(text)

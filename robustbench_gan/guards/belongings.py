"""Tensors that are nobody's to change, or nobody's but their owner's: kept by copies, sums or counts of edits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from robustbench_gan.base.tensors import put_back, same, version

if TYPE_CHECKING:
    from robustbench_gan.guards.seal import Seal


class Belonging(Protocol):
    """Something that is nobody's to change, or nobody's but its owner's."""

    def put_back(self) -> list[str]:
        """Undo what was changed, and name it."""


class Kept:
    """Tensors by name, with copies of them."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._held = {name: (t, version(t), t.detach().clone()) for name, t in tensors.items()}

    def put_back(self, *, quick: bool = False) -> list[str]:
        """Undo what was changed, and name it; `quick`: what was edited, as far as counts of edits tell."""
        changed = []
        for name, (tensor, was, copy) in self._held.items():
            if version(tensor) != was if quick else not same(tensor, copy):
                put_back(tensor, copy)
                self._held[name] = tensor, version(tensor), copy
                changed.append(name)
        return changed


@dataclass(frozen=True)
class Quick:
    """The same, compared by the counts of its edits."""

    kept: Kept | Seal

    def put_back(self) -> list[str]:
        """Undo what was changed, and name it."""
        return self.kept.put_back(quick=True)


@dataclass(frozen=True)
class Theirs:
    """What belongs to the plugin itself: put back, and held against nobody."""

    belonging: Belonging

    def put_back(self) -> list[str]:
        """Undo what was changed."""
        self.belonging.put_back()
        return []


class Loaded:
    """Tensors of which no copy is kept: `reload` gives them anew by name. Compared by the counts of their edits."""

    def __init__(self, tensors: Mapping[str, Tensor], reload: Callable[[], Mapping[str, Tensor]]) -> None:
        self._tensors, self._reload = tensors, reload
        self._versions = {name: version(t) for name, t in tensors.items()}
        self._sums = dict[str, bytes]()

    def put_back(self) -> list[str]:
        """Undo what was changed, and name it."""
        return self._undone([n for n, t in self._tensors.items() if version(t) != self._versions[n]])

    def whole(self) -> Belonging:
        """The same compared by their values, with those of the first time. What changed up to now is undone."""
        self._sums = self._sums or {name: _sums(t) for name, t in self._tensors.items()}
        whole = _Whole(self)
        whole.put_back()
        return whole

    def checked(self) -> list[str]:
        """`put_back`, by values where those of the first time are known."""
        return (_Whole(self) if self._sums else self).put_back()

    def _undone(self, changed: list[str]) -> list[str]:
        if changed:
            anew = self._reload()
            for name in changed:
                put_back(self._tensors[name], anew[name])
                self._versions[name] = version(self._tensors[name])
        return changed


@dataclass(frozen=True)
class _Whole:
    loaded: Loaded

    def put_back(self) -> list[str]:
        by_values = [n for n, t in self.loaded._tensors.items() if _sums(t) != self.loaded._sums[n]]
        return [*self.loaded.put_back(), *self.loaded._undone(by_values)]


_COLUMNS = 8191  # a prime: rows of images fall into other columns wherever they are moved


def _sums(tensor: Tensor) -> bytes:
    """The sums of a tensor's columns when its 64-bit words are laid out in rows: a tenth of the time of a hash."""
    raw = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
    raw = raw if raw.storage_offset() % 8 == 0 else raw.clone()
    words, rest = raw[: len(raw) // 8 * 8].view(torch.int64), raw[len(raw) // 8 * 8 :]
    rows = words[: len(words) // _COLUMNS * _COLUMNS].view(-1, _COLUMNS).sum(dim=0)
    return b"".join(
        part.numpy().tobytes() for part in (rows, words[len(words) // _COLUMNS * _COLUMNS :], rest)
    )

"""What belongs to others is left as it was: a plugin that changes it is named and fails, and the change is undone.

Tensors that a plugin is handed (`handed`, `Kept`), networks that cells share (`Seal`), what a process shares
(`surroundings.py`). What a plugin returns is a plain tensor. Functions that it replaced in the classes of these
networks, in Python, numpy and torch are put back; other code is out of reach.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from robustbench_gan.base.errors import said
from robustbench_gan.guards.setting import memcmp
from robustbench_gan.guards.surroundings import Surroundings, functions_of


class Meddled(RuntimeError):
    """A plugin changed what is not its own. The message names both; the change is undone."""


def form(value: Any) -> str:
    """What something returned is, for messages: shape and type of a plain tensor, and whatever else it is instead."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    said = f"{tuple(value.shape)} {value.dtype}"
    if type(value) is not Tensor:
        return f"{said} as {type(value).__name__}, a subclass of Tensor"
    if value.layout is not torch.strided:
        return f"{said} of layout {str(value.layout).removeprefix('torch.')}"
    return f"{said} on {value.device}" if value.device.type == "meta" else said


def plain(value: Any, like: Tensor) -> bool:
    """Is it exactly a Tensor, dense and where `like` lies? A subclass may answer as it likes when it is checked."""
    return type(value) is Tensor and value.layout is torch.strided and value.device == like.device


def same(one: Tensor, other: Tensor) -> bool:
    """Do two tensors hold the same bits?"""
    if one.dtype != other.dtype or one.shape != other.shape or one.device != other.device:
        return False
    one, other = one.detach(), other.detach()
    if one.layout is not torch.strided or other.layout is not torch.strided:
        return one.layout is other.layout and same(one.to_dense(), other.to_dense())
    if one.device.type == "cpu" and one.is_contiguous() and other.is_contiguous():
        size = one.numel() * one.element_size()
        return not memcmp(one.data_ptr(), other.data_ptr(), size)  # a twentieth of the time of torch.equal
    return torch.equal(*(t.contiguous().view(-1).view(torch.uint8) for t in (one, other)))


def version(tensor: Tensor) -> int:
    """How often it was edited in place; those of inference mode are not counted."""
    return -1 if tensor.is_inference() else tensor._version


@contextmanager
def handed(owner: str, **given: Tensor) -> Iterator[None]:
    """Hand tensors to a plugin's code. Raises Meddled where it edits one, which is then as it was before.

    A micro-batch may be a view of the judge's own images. The count of edits misses those through numpy or `.data`,
    the copy one that changed nothing.
    """
    kept = {name: (tensor, version(tensor), tensor.detach().clone()) for name, tensor in given.items()}
    refused: RuntimeError | None = None
    try:
        yield
    except RuntimeError as error:
        if "leaf Variable that requires grad" not in said(error):
            raise
        refused = error
    finally:
        edited = [
            name
            for name, (tensor, was, copy) in kept.items()
            if version(tensor) != was or not same(tensor, copy)
        ]
        for name in edited:
            put_back(kept[name][0], kept[name][2])
    if edited or refused:
        what = " and ".join(edited or given)
        raise Meddled(f"{owner} edited its input in place ({what}): work on a copy, x.clone()") from refused


def put_back(tensor: Tensor, copy: Tensor) -> None:
    """Give a tensor its former values, and its former shape and type where those were changed as well."""
    with torch.no_grad():
        if tensor.shape == copy.shape and tensor.dtype == copy.dtype and tensor.device == copy.device:
            tensor.data.copy_(copy)
        else:
            tensor.data = copy.clone()


class Belonging(Protocol):
    """Something that is nobody's to change, or nobody's but its owner's."""

    def put_back(self) -> list[str]:
        """Undo what was changed, and name it."""


class Accused(NamedTuple):
    """Code that ran beside a plugin's, by name, and how to have it run alone."""

    name: str
    ask: Callable[[], object]


@contextmanager
def left_alone(
    who: str,
    *belongings: Belonging,
    state: Sequence[Belonging] = (),
    suspects: Sequence[Accused] = (),
    around: Surroundings | None = None,
) -> Iterator[None]:
    """Run a plugin's code. Raises Meddled where it changed the belongings or the surroundings; that is undone.

    Blamed is the first of the `suspects` that does the same when it runs alone, else `who`. `state` is what the
    suspects may change themselves, being theirs, and nobody else. `around` are the surroundings as they
    must be, if they were read before.
    """
    around = around or Surroundings()
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, Meddled):
            _settle(who, around, belongings, state, suspects, error)
        else:
            around.put_back()
            _put_back(belongings, state)
        raise
    _settle(who, around, belongings, state, suspects, None)


def _settle(
    who: str,
    around: Surroundings,
    belongings: Sequence[Belonging],
    state: Sequence[Belonging],
    suspects: Sequence[Accused],
    error: Exception | None,
) -> None:
    found = [*around.put_back(), *_put_back(belongings)]
    stately = _put_back(state)
    for suspect in suspects if found or stately else ():
        alone = Surroundings(thorough=around.thorough)
        with contextlib.suppress(Exception):
            suspect.ask()
        does = [*alone.put_back(), *_put_back(belongings)]
        own_state = _put_back(state)
        stately = [name for name in stately if name not in own_state]
        if own := [name for name in found if name in does]:
            raise _meddled(suspect.name, own) from error
    if found or stately:
        raise _meddled(who, [*found, *stately]) from error


def _put_back(*belongings: Sequence[Belonging]) -> list[str]:
    return [name for each in itertools.chain(*belongings) for name in each.put_back()]


def _meddled(who: str, found: Sequence[str]) -> Meddled:
    return Meddled(f"{who} changed what is not its own: {', '.join(dict.fromkeys(found))}")


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


_FIELDS = (
    "_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs", "_forward_hooks_always_called", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip
_SAID = {"_parameters": "parameters", "_buffers": "buffers", "_modules": "layers"}  # of others: its hooks


class Seal:
    """A network that cells share: its weights, modes, hooks and layers as they were when it was made."""

    def __init__(self, module: nn.Module, name: str, without: Iterable[nn.Module] = ()) -> None:
        """`without` are networks inside it that have seals of their own."""
        others = {id(inner) for other in without for inner in other.modules()}
        self.module, self.name = module, name
        self.modules = [(path, m) for path, m in module.named_modules() if id(m) not in others]
        self._fields = [
            (path, m, key, dict(m.__dict__[key]))
            for path, m in self.modules
            for key in _FIELDS
            if key in m.__dict__
        ]
        self._training = [  # a frozen program has no mode
            (path, m, m.training) for path, m in self.modules if hasattr(m, "training")
        ]
        self._code = [(path, m, m.__class__, m.__dict__.get("forward")) for path, m in self.modules]
        kinds = {kind for _, m in self.modules for kind in type(m).__mro__} - {object, nn.Module}
        self._functions = [(k, set(vars(k)), {n: vars(k)[n] for n in functions_of(k)}) for k in kinds]
        held: dict[int, tuple[str, Tensor]] = {}
        for path, m in self.modules:
            for key, tensor in (
                *m.named_parameters(path, recurse=False),
                *m.named_buffers(path, recurse=False),
            ):
                held.setdefault(id(tensor), (key, tensor))
        self._tensors = [(k, t, t.requires_grad, version(t), t.detach().clone()) for k, t in held.values()]
        self._hooks = [(t, dict(t._backward_hooks or {})) for _, t in held.values()]

    def put_back(self, *, quick: bool = False) -> list[str]:
        """Undo what was changed, and name it; `quick`: modes, and weights as far as counts of edits tell."""
        changed = [*self._training_put_back(), *self._tensors_put_back(quick)]
        if not quick:
            changed += [*self._fields_put_back(), *self._code_put_back()]
        return [f"{what} of {self.name}" for what in changed]

    def _fields_put_back(self) -> Iterator[str]:
        for path, module, key, was in self._fields:
            now = module.__dict__.get(key)
            if (
                now is not None
                and len(now) == len(was)
                and all(map(operator.is_, now.values(), was.values()))
                and [*now.keys()] == [*was]  # what a network calls by name may be another by that name
            ):
                continue
            if now is None:
                now = module.__dict__[key] = {}
            now.clear()
            now.update(was)
            yield f"the {_SAID.get(key, 'hooks')}{f' ({path})' if path else ''}"

    def _code_put_back(self) -> Iterator[str]:
        for path, module, kind, forward in self._code:
            if module.__class__ is kind and module.__dict__.get("forward") is forward:
                continue
            module.__class__ = kind
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.__dict__["forward"] = forward
            yield f"the code{f' ({path})' if path else ''}"
        for kind, names, functions in self._functions:
            replaced = [n for n, was in functions.items() if vars(kind).get(n) is not was]
            for name in replaced:
                setattr(kind, name, functions[name])
            hiding = [n for n in vars(kind).keys() - names if callable(getattr(super(kind, kind), n, None))]
            for name in hiding:
                delattr(kind, name)
            yield from (f"the code ({kind.__name__}.{name})" for name in replaced + hiding)

    def _training_put_back(self) -> Iterator[str]:
        wrong = [(module, was) for _, module, was in self._training if module.training != was]
        for module, was in wrong:
            module.training = was
        if wrong:
            yield "the training mode"

    def _tensors_put_back(self, quick: bool) -> Iterator[str]:
        found = set()
        for at, (key, tensor, required, was, copy) in enumerate(self._tensors):
            if version(tensor) != was if quick else not same(tensor, copy):
                put_back(tensor, copy)
                self._tensors[at] = key, tensor, required, version(tensor), copy
                found.add(f"the weights ({key})")
            if tensor.requires_grad != required:
                tensor.requires_grad_(required)
                tensor.grad = None
                found.add("requires_grad")
        for tensor, hooks in self._hooks:
            if (now := tensor._backward_hooks) and dict(now) != hooks:
                now.clear()
                now.update(hooks)
                found.add("the hooks")
        yield from sorted(found)[:2]  # one of many is enough


_OF_MODULES = {*nn.Module().__dict__, "forward"}


class Attributes:
    """What networks hold beside their weights: numbers, texts, tensors and lists, as far as one can see."""

    def __init__(self, seals: Iterable[Seal]) -> None:
        self._held = [(seal.name, path, m, _attributes(m)) for seal in seals for path, m in seal.modules]

    def put_back(self) -> list[str]:
        """Undo what was changed, and name it."""
        changed = []
        for name, path, module, was in self._held:
            for key in _changed(was, module):
                module.__dict__.pop(key, None)
                if key in was:
                    module.__dict__[key] = _undone(*was[key])
                changed.append(f"{key} of {name}{f' ({path})' if path else ''}")
        return changed


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Values by name, each with what of it can change while it stays the same object."""
    held = module.__dict__
    return {key: (held[key], _inside(held[key])) for key in held.keys() - _OF_MODULES}


def _inside(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str | tuple):  # nearly always
        return None
    if isinstance(value, Tensor):
        return version(value)
    return value.copy() if isinstance(value, list | set | dict) else None


def _changed(was: dict[str, tuple[Any, Any]], module: nn.Module) -> list[str]:
    held = module.__dict__
    names = held.keys() - _OF_MODULES
    same = [key for key, (value, inside) in was.items() if key in names and _alike(value, held[key], inside)]
    return sorted((names | was.keys()).difference(same))


def _alike(old: Any, new: Any, held: Any) -> bool:
    if old is new and held is None:
        return True
    if old is not new:
        return (
            type(old) is type(new) and isinstance(old, bool | int | float | str | bytes) and bool(old == new)
        )
    if isinstance(old, list):
        return len(held) == len(old) and all(map(operator.is_, held, old))
    if isinstance(old, dict):
        return held.keys() == old.keys() and all(held[key] is old[key] for key in held)
    return bool(held == _inside(old))


def _undone(value: Any, held: Any) -> Any:
    if isinstance(value, list):
        value[:] = held
    elif isinstance(value, set | dict):
        value.clear()
        value.update(held)
    return value

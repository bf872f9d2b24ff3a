"""Networks that cells share, and what they hold: as they were when they were sealed."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from robustbench_gan.base.tensors import put_back, same, version
from robustbench_gan.guards.functions import functions_of

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

"""What all code of a process shares beside what decides numbers: how things are found, said, allowed, and our own code.

Looked at where a plugin runs that is not bundled.
"""

from __future__ import annotations

import _locale
import contextlib
import ctypes
import functools
import gc
import hashlib
import io
import json
import locale
import logging
import operator
import os
import pathlib
import resource
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch._tensor_str import PRINT_OPTS
from torch.nn import functional

from robustbench_gan.base.memory import all_identical, identical
from robustbench_gan.guards.setting import Setting

_libm = ctypes.CDLL(None)  # Python itself stands on the C library's mathematics
_LIMITS = tuple(getattr(resource, name) for name in sorted(vars(resource)) if name.startswith("RLIMIT_"))
_CORE = __name__.partition(".")[0]
_FOUNDATIONS = (os, io, json, hashlib, pathlib, pathlib.Path, signal, threading)
_get_precision: Any = getattr(torch._C, "_get_fp32_precision_getter", None)  # torch 2.9
_set_precision: Any = getattr(torch._C, "_set_fp32_precision_setter", None)
_PRECISIONS = (
    *(("mkldnn", of) for of in ("matmul", "conv", "rnn", "all")),
    *((("cuda", of) for of in ("matmul", "conv", "rnn", "all")) if torch.cuda.is_available() else ()),
    ("generic", "all"),
) * (_get_precision is not None)


def _precision() -> tuple[Any, ...]:
    return tuple(_get_precision(*of) for of in _PRECISIONS)


def _put_precision(old: tuple[Any, ...]) -> None:
    for of, value in [*zip(_PRECISIONS, old, strict=True)][::-1]:  # of all before of its parts
        if _get_precision(*of) != value:
            _set_precision(*of, value)


def _finders() -> tuple[Any, ...]:
    return *sys.path, None, *sys.meta_path, None, *sys.path_hooks


def _put_finders(old: tuple[Any, ...]) -> None:
    first = old.index(None)
    second = old.index(None, first + 1)
    sys.path[:], sys.meta_path[:], sys.path_hooks[:] = old[:first], old[first + 1 : second], old[second + 1 :]


def _logging() -> tuple[Any, ...]:
    root = logging.root
    return root.level, root.disabled, root.manager.disable, logging.raiseExceptions, *root.handlers


def _put_logging(old: tuple[Any, ...]) -> None:
    root = logging.root
    root.setLevel(old[0])
    root.disabled, root.manager.disable, logging.raiseExceptions = old[1:4]
    root.handlers[:] = old[4:]
    root.manager._clear_cache()  # type: ignore[attr-defined] # of what each logger lets through


def _collector() -> tuple[Any, ...]:
    return gc.isenabled(), gc.get_debug(), *gc.get_threshold()


def _put_collector(old: tuple[Any, ...]) -> None:
    (gc.enable if old[0] else gc.disable)()
    gc.set_debug(old[1])
    gc.set_threshold(*old[2:])


def _tracing() -> tuple[Any, ...]:
    """Debuggers, profilers and what reports errors: whatever was there before a plugin's call is there after it."""
    return (
        sys.gettrace(), sys.getprofile(), threading._trace_hook, threading._profile_hook,  # type: ignore[attr-defined]
        sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook,
        warnings.showwarning,
    )  # fmt: skip


def _put_tracing(old: tuple[Any, ...]) -> None:
    sys.settrace(old[0])
    sys.setprofile(old[1])
    threading._trace_hook, threading._profile_hook = old[2:4]  # type: ignore[attr-defined]
    sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook = old[4:8]
    warnings.showwarning = old[8]


_DIGITS = (  # Python 3.10.7 and later
    [(sys.get_int_max_str_digits, sys.set_int_max_str_digits)]
    if hasattr(sys, "get_int_max_str_digits")
    else []
)


def _interpreter() -> tuple[Any, ...]:
    return sys.getswitchinterval(), sys.dont_write_bytecode, *(get() for get, _ in _DIGITS)


def _put_interpreter(old: tuple[Any, ...]) -> None:
    sys.setswitchinterval(old[0])
    sys.dont_write_bytecode = old[1]
    for (_, put), digits in zip(_DIGITS, old[2:], strict=True):
        put(digits)


def _locale_now() -> str:
    return str(_locale.setlocale(locale.LC_ALL, None))


def _rounding() -> int:
    """The direction that the processor rounds to."""
    return int(_libm.fegetround())


def _limits() -> list[Any]:
    return [resource.getrlimit(of) for of in _LIMITS]


def _processors() -> set[int]:
    """Those that the process may run on; nothing where the system does not say."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _put_processors(old: set[int]) -> None:
    os.sched_setaffinity(0, old)


def _put_limits(old: list[Any]) -> None:
    for of, now, value in zip(_LIMITS, _limits(), old, strict=True):
        if now != value:
            with contextlib.suppress(ValueError, OSError):  # the hard one was lowered, which is for good
                resource.setrlimit(of, value)


_INSIDE = tuple(map(operator.attrgetter, ("__code__", "__defaults__", "__kwdefaults__")))
_KINDS = (torch.Tensor, torch.nn.Parameter, torch.nn.Module)
_CODE = (types.FunctionType, classmethod, staticmethod, property)


class _Owner(NamedTuple):
    """A module or a class, the names that it holds, and how their values are read at once."""

    held: Any
    names: tuple[str, ...]
    read: Callable[[Any], tuple[Any, ...]]


@functools.cache
def _owners() -> tuple[_Owner, ...]:
    """Our own modules and their classes, and what they stand on."""
    ours = [m for name, m in sorted(sys.modules.items()) if name.partition(".")[0] == _CORE]
    classes = {
        id(c): c for m in ours for c in vars(m).values() if isinstance(c, type) and c.__module__ == m.__name__
    }
    found = []
    for owner in (*ours, *classes.values(), *_FOUNDATIONS):
        names = tuple(
            n for n, value in vars(owner).items() if not n.startswith("__") or isinstance(value, _CODE)
        )
        if len(names) > 1:  # of one alone an itemgetter makes no tuple
            found.append(_Owner(owner, names, operator.itemgetter(*names)))
    return tuple(found)


@functools.cache
def _written() -> tuple[Any, ...]:
    """The functions among them, and those of torch that are written in Python: what they do may be exchanged inside."""
    held = [value for owner in _owners() for value in owner.read(vars(owner.held))]
    held += [value for owner in (functional, torch.Tensor, torch.nn.Module) for value in vars(owner).values()]
    return tuple({id(f): f for f in held if isinstance(f, types.FunctionType)}.values())


def _core() -> list[tuple[Any, ...]]:
    inside = [tuple(map(read, _written())) for read in _INSIDE]
    try:
        return [*inside, *(owner.read(vars(owner.held)) for owner in _owners())]
    except KeyError:  # one was deleted
        return [*inside, *(tuple(map(vars(owner.held).get, owner.names)) for owner in _owners())]


def _put_core(old: list[tuple[Any, ...]]) -> None:
    for function, code, defaults, named in zip(_written(), *old[:3], strict=True):
        if function.__code__ is not code:
            function.__code__ = code
        function.__defaults__, function.__kwdefaults__ = defaults, named
    for owner, found in zip(_owners(), old[3:], strict=True):
        held = vars(owner.held)
        for name, was in zip(owner.names, found, strict=True):
            if held.get(name) is not was:
                setattr(owner.held, name, was)


def _methods() -> tuple[tuple[str, ...], ...]:
    """The names that torch's own classes hold: a new one may hide what they inherit."""
    return tuple(tuple(vars(kind)) for kind in _KINDS)


def _put_methods(old: tuple[tuple[str, ...], ...]) -> None:
    for kind, names in zip(_KINDS, old, strict=True):
        for name in vars(kind).keys() - set(names):
            delattr(kind, name)


def _modules() -> dict[str, Any]:
    return dict(sys.modules)


def _same_modules(now: dict[str, Any], old: dict[str, Any]) -> bool:
    """New ones are imports, which are nobody's fault."""
    return identical(tuple(map(now.get, old)), tuple(old.values()))


MORE: tuple[Setting, ...] = (  # in the order in which they are put back
    Setting("the rounding of floats", _rounding, _libm.fesetround),  # what others read may depend on it
    Setting("the precision of torch's products", _precision, _put_precision),
    Setting("where modules are imported from", _finders, _put_finders, imports=True, same=identical),
    Setting("the root logger", _logging, _put_logging, imports=True, same=identical),
    Setting("how tensors are printed", lambda: dict(vars(PRINT_OPTS)), vars(PRINT_OPTS).update, imports=True),
    Setting(
        "how arrays are printed", np.get_printoptions, lambda old: np.set_printoptions(**old), imports=True
    ),
    Setting("the garbage collector", _collector, _put_collector),
    Setting("the tracing of Python", _tracing, _put_tracing, imports=True, same=identical),
    Setting("a setting of Python", _interpreter, _put_interpreter, imports=True),
    Setting("the locale", _locale_now, lambda old: _locale.setlocale(locale.LC_ALL, old), imports=True),
    Setting("the limits of the process", _limits, _put_limits),
    Setting("the processors of the process", _processors, _put_processors),
    Setting("an imported module", _modules, sys.modules.update, imports=True, same=_same_modules),
    Setting("the methods of torch's classes", _methods, _put_methods, imports=True),
    Setting("the code of the judge", _core, _put_core, same=all_identical),
)

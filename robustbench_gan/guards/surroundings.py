"""What all code of a process shares, such as torch's default type or the working directory: read, compared, put back.

A plugin that changes it would change the numbers of cells that know nothing of it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # what signal.getsignal wraps, at a thirtieth of its time
import builtins
import contextlib
import ctypes
import math
import operator
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.nn.modules import module as hooks

from robustbench_gan.guards.interpreter import MORE
from robustbench_gan.guards.setting import Setting, all_identical, identical

_LIVING: list[Any] = []  # guards of torch that must never be collected
_SMALLEST = 5e-324  # the smallest denormal
_MT19937_BYTES = 4 * 625  # numpy's global generator: 624 words and a position
_GLOBAL_HOOKS = sorted(name for name in vars(hooks) if name.startswith("_global_") and name.endswith("hooks"))
_SIGNALS = sorted(signal.valid_signals())
_STREAMS = (0, 1, 2)
_TIMERS = tuple(
    getattr(signal, name)
    for name in ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF")
    if hasattr(signal, name)
)
_ENVIRONMENT = os.environ
_SHARED = (
    builtins, math, random, time, np, np.random, torch, functional, torch.autograd, torch.Tensor, torch.nn.Module,
)  # fmt: skip


def _function_modes() -> tuple[Any, ...]:
    return tuple(torch._C._get_function_stack_at(at) for at in range(torch._C._len_torch_function_stack()))


def _put_function_modes(old: Sequence[Any]) -> None:
    while torch._C._len_torch_function_stack():
        torch._C._pop_torch_function_stack()
    for mode in old:
        torch._C._push_on_torch_function_stack(mode)


def _default_device() -> torch.device | None:
    """None where none was set: setting one, even the processor, makes every call of torch slower."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)  # type: ignore[attr-defined]
    return None if context is None else context.device


def _dispatch_modes() -> int:
    return int(torch._C._len_torch_dispatch_stack())


def _put_dispatch_modes(old: int) -> None:
    from torch.utils._python_dispatch import _pop_mode

    while torch._C._len_torch_dispatch_stack() > old:
        _pop_mode()  # type: ignore[no-untyped-call]


def _put_inference(old: bool) -> None:
    guard = torch._C._InferenceMode(old)
    guard.__enter__()
    _LIVING.append(guard)


def _saved_hooks() -> Any:
    """None also where torch, before 2.8, has no way to ask."""
    ask = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return ask and ask(True)


def _put_saved_hooks(old: Any) -> None:
    while _saved_hooks() not in (None, old):
        torch._C._autograd._pop_saved_tensors_default_hooks()


def _autocast() -> tuple[Any, ...]:
    torch.autocast_increment_nesting()
    return (
        torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cuda"),
        torch.get_autocast_dtype("cuda"), torch.is_autocast_cache_enabled(), torch.autocast_decrement_nesting(),
    )  # fmt: skip


def _put_autocast(old: tuple[Any, ...]) -> None:
    cpu, cpu_type, cuda, cuda_type, cache, depth = old
    torch.set_autocast_enabled("cpu", cpu)
    torch.set_autocast_dtype("cpu", cpu_type)
    torch.set_autocast_enabled("cuda", cuda)
    torch.set_autocast_dtype("cuda", cuda_type)
    torch.set_autocast_cache_enabled(cache)
    now = _autocast()[-1]
    for _ in range(now - depth):
        torch.autocast_decrement_nesting()
    for _ in range(depth - now):
        torch.autocast_increment_nesting()
    torch.clear_autocast_cache()


def _deterministic() -> tuple[bool, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )  # fmt: skip


def _put_deterministic(old: tuple[bool, ...]) -> None:
    torch.use_deterministic_algorithms(old[0], warn_only=old[1])
    torch.utils.deterministic.fill_uninitialized_memory = old[2]  # type: ignore[attr-defined]


def _backends() -> list[Any]:
    return [get() for get, _ in _BACKENDS]


def _put_backends(old: Sequence[Any]) -> None:
    for (get, put), value in zip(_BACKENDS, old, strict=True):
        if get() != value and value is not None:
            put(value)


def _products() -> str | None:
    """How precise products of float32 matrices are; None where backends were told differently."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


_SWITCHES = (
    ("_get_mkldnn_enabled", "_set_mkldnn_enabled"),
    ("_get_mkldnn_deterministic", "_set_mkldnn_deterministic"),
    ("_get_nnpack_enabled", "_set_nnpack_enabled"),
    ("_get_cudnn_enabled", "_set_cudnn_enabled"),
    ("_get_cudnn_benchmark", "_set_cudnn_benchmark"),
    ("_get_cudnn_deterministic", "_set_cudnn_deterministic"),
    ("_get_flash_sdp_enabled", "_set_sdp_use_flash"),
    ("_get_mem_efficient_sdp_enabled", "_set_sdp_use_mem_efficient"),
    ("_get_math_sdp_enabled", "_set_sdp_use_math"),
)
_BACKENDS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    *(
        (getattr(torch._C, get), getattr(torch._C, put))
        for get, put in _SWITCHES
        if hasattr(torch._C, get)  # older versions of torch lack some
    ),
    (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
    (_products, torch.set_float32_matmul_precision),
)


def _module_hooks() -> list[dict[Any, Any]]:
    return [dict(getattr(hooks, name)) for name in _GLOBAL_HOOKS]


def _put_module_hooks(old: list[dict[Any, Any]]) -> None:
    for name, found in zip(_GLOBAL_HOOKS, old, strict=True):
        held = getattr(hooks, name)
        held.clear()
        held.update(found)


def _torch_generator() -> tuple[bytes, Any]:
    cuda = torch.cuda.get_rng_state().numpy().tobytes() if torch.cuda.is_initialized() else None
    return torch.get_rng_state().numpy().tobytes(), cuda


def _put_torch_generator(old: tuple[bytes, Any]) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(old[0]), dtype=torch.uint8))
    if old[1] is not None:
        torch.cuda.set_rng_state(torch.frombuffer(bytearray(old[1]), dtype=torch.uint8))


def _numpy_generator() -> tuple[Any, bytes]:
    """The generator and what it holds, as bytes: numpy's own way to ask for them takes 0.1 ms."""
    generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
    if not isinstance(generator, np.random.MT19937):
        return generator, b""
    return generator, ctypes.string_at(generator.ctypes.state_address, _MT19937_BYTES)


def _put_numpy_generator(old: tuple[Any, bytes]) -> None:
    generator, held = old
    if np.random.get_bit_generator() is not generator:  # type: ignore[attr-defined]
        np.random.set_bit_generator(generator)  # type: ignore[attr-defined]
    if held:
        ctypes.memmove(generator.ctypes.state_address, held, len(held))


def _put_filters(old: list[Any]) -> None:
    warnings.filters[:] = old  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _environment() -> dict[Any, Any]:
    if os.environ is not _ENVIRONMENT:
        return {}
    return dict(os.environ._data)  # type: ignore[attr-defined] # as bytes: decoding all of it takes 0.1 ms


def _put_environment(old: dict[Any, Any]) -> None:
    os.environ = _ENVIRONMENT  # noqa: B003 - it was there before
    for name in {*old, *_environment()}:
        key = os.fsdecode(name)
        if name in old:
            os.environ[key] = os.fsdecode(old[name])
        else:
            os.environ.pop(key, None)


def _directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - a Path takes longer than asking
    except FileNotFoundError:
        return ""


def _put_directory(old: str) -> None:
    if old:
        os.chdir(old)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _handlers() -> tuple[Any, ...]:
    return tuple(map(_signal.getsignal, _SIGNALS))


def _put_handlers(old: tuple[Any, ...]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number, now, handler in zip(_SIGNALS, _handlers(), old, strict=True):
            if now is not handler and handler is not None:  # None: not of Python's making
                signal.signal(number, handler)


def _timers() -> tuple[bool, ...]:
    """Which of the process's alarms are set."""
    return tuple(signal.getitimer(which)[0] > 0 for which in _TIMERS)


def _put_timers(old: Sequence[bool]) -> None:
    for which, was in zip(_TIMERS, old, strict=True):
        if not was:
            signal.setitimer(which, 0)


def _printing() -> tuple[Any, ...]:
    return sys.stdin, sys.stdout, sys.stderr


def _put_printing(old: tuple[Any, ...]) -> None:
    sys.stdin, sys.stdout, sys.stderr = old


def functions_of(owner: Any) -> tuple[str, ...]:
    """Names of the functions that a module or a class holds itself, those that are private to a module aside."""
    public = (name for name in vars(owner) if isinstance(owner, type) or not name.startswith("_"))
    held = ((name, vars(owner)[name]) for name in public)
    return tuple(
        n for n, f in held if not isinstance(f, type) and (callable(f) or hasattr(type(f), "__get__"))
    )


_FUNCTIONS = [(owner, functions_of(owner)) for owner in _SHARED]
_GETTERS = [(vars(owner), operator.itemgetter(*names)) for owner, names in _FUNCTIONS]


def _functions() -> list[tuple[Any, ...]]:
    try:
        return [get(held) for held, get in _GETTERS]
    except KeyError:  # one was deleted
        return [tuple(map(vars(owner).get, names)) for owner, names in _FUNCTIONS]


def _put_functions(old: list[tuple[Any, ...]]) -> None:
    for (owner, names), found, now in zip(_FUNCTIONS, old, _functions(), strict=True):
        for name, was, held in zip(names, found, now, strict=True):
            if held is not was:
                setattr(owner, name, was)


SETTINGS: tuple[Setting, ...] = (  # put back in this order: what would hinder the rest comes first
    Setting(
        "a function of Python, numpy or torch", _functions, _put_functions, imports=True, same=all_identical
    ),
    Setting("the alarms of the process", _timers, _put_timers),
    Setting("sys.stdin, sys.stdout or sys.stderr", _printing, _put_printing, same=identical),
    Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit, imports=True),
    Setting("the warning filters", lambda: list(warnings.filters), _put_filters, imports=True),
    Setting("the default device", _default_device, torch.set_default_device),
    Setting("torch's function modes", _function_modes, _put_function_modes, same=identical),
    Setting("torch's dispatch modes", _dispatch_modes, _put_dispatch_modes),
    Setting("inference mode", torch.is_inference_mode_enabled, _put_inference),
    Setting("grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting("the hooks on saved tensors", _saved_hooks, _put_saved_hooks),
    Setting("autocast", _autocast, _put_autocast),
    Setting("the default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("the number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting("deterministic algorithms", _deterministic, _put_deterministic),
    Setting(
        "anomaly detection",
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda old: torch.autograd.set_detect_anomaly(*old),
    ),
    Setting("the flushing of denormals", lambda: _SMALLEST * 1.0 == 0.0, torch.set_flush_denormal),
    Setting("a setting of torch.backends", _backends, _put_backends),
    Setting("the hooks of all modules", _module_hooks, _put_module_hooks),
    Setting("numpy's handling of errors", np.geterr, lambda old: np.seterr(**old), imports=True),
    Setting("the environment", _environment, _put_environment, imports=True),
    Setting("the working directory", _directory, _put_directory),
    Setting("the umask", _umask, os.umask),
    Setting("the signal handlers", _handlers, _put_handlers, same=identical),
)


GENERATORS: tuple[Setting, ...] = (
    Setting("torch's global generator", _torch_generator, _put_torch_generator),
    Setting("numpy's global generator", _numpy_generator, _put_numpy_generator),
    Setting("random's global generator", random.getstate, random.setstate),
)


class Surroundings:
    """All of it as it is now; the `generators` are put back and held against nobody.

    What is looked at where a plugin runs that is not bundled comes with `thorough`, which takes half a millisecond.
    """

    def __init__(self, *, generators: bool = False, thorough: bool = False) -> None:
        self.thorough = thorough
        self._generators = [(setting, setting.read()) for setting in GENERATORS if generators]
        self._streams = [(fd, *_saved(fd)) for fd in _STREAMS]
        self._settings = (*SETTINGS, *MORE) if thorough else SETTINGS
        self._values = [setting.read() for setting in self._settings]
        self._modules = len(sys.modules)

    def put_back(self) -> list[str]:
        """Undo what was changed since, once; the names of what is nobody's to change."""
        changed = []
        for setting, old in zip(self._settings, self._values, strict=True):
            now = setting.read()
            if not (setting.same(now, old) if self.thorough else now == old):
                setting.put(old)
                if not (setting.imports and len(sys.modules) > self._modules):
                    changed.append(setting.name)
        for setting, old in self._generators:
            if setting.read() != old:
                setting.put(old)
        for fd, file, copy in self._streams:
            if _file(fd) != file:
                changed.append(f"file descriptor {fd}")
                with contextlib.suppress(OSError):  # the copy was closed as well
                    os.dup2(copy, fd)
        return changed


_COPIES: dict[int, tuple[Any, int]] = {}


def _saved(fd: int) -> tuple[Any, int]:
    """What a descriptor stands for, and a copy of it that is kept for as long as it stands for the same."""
    file = _file(fd)
    if fd not in _COPIES or _COPIES[fd][0] != file:
        with contextlib.suppress(OSError, KeyError):
            os.close(_COPIES.pop(fd)[1])
        _COPIES[fd] = file, os.dup(fd) if file else -1
    return _COPIES[fd]


def _file(fd: int) -> tuple[int, int] | None:
    """What a descriptor stands for; None where it is closed."""
    with contextlib.suppress(OSError):
        found = os.fstat(fd)
        return found.st_dev, found.st_ino
    return None


@contextmanager
def ordinary(device: torch.device) -> Iterator[None]:
    """Torch as it starts, float32 and no autocast, whatever the caller has set: answers are judged in float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)

"""What torch computes by, such as its default type, autocast and backends: read, compared, put back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.modules import module as hooks

from robustbench_gan.base.memory import identical
from robustbench_gan.guards.setting import Setting

_LIVING: list[Any] = []  # guards of torch that must never be collected
_SMALLEST = 5e-324  # the smallest denormal
_GLOBAL_HOOKS = sorted(name for name in vars(hooks) if name.startswith("_global_") and name.endswith("hooks"))


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


TORCH: tuple[Setting, ...] = (
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
)

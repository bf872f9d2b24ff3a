"""Weights as people have them: loaded into a model, whatever wrappers put before every name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from robustbench_gan.base.errors import UsageError

WRAPPERS = ("module", "_orig_mod", "model", "state_dict", "model_state_dict", "net", "network", "classifier")
"""What DataParallel, `torch.compile`, Lightning and training scripts put before every name."""

SHOWN = 3  # names of each kind in a message


def fill(model: nn.Module, tensors: Mapping[str, Tensor], source: str, target: str) -> str:
    """Load weights into a model; returns what was taken off their names, empty where nothing was.

    A prefix of a wrapper (`module.`, `_orig_mod.`, ...) that all names have is taken off where all of them then fit.
    Raises UsageError of one line for names that are missing or too many, other shapes and other kinds of numbers.
    """
    try:
        wanted = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    except Exception as error:
        raise UsageError(f"{target}: its state cannot be asked for: {error}.") from error
    prefix = _prefix(tensors, wanted)
    named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    missing = [name for name in wanted if name not in named and not _need_not_be(name, wanted, named)]
    extra = [name for name in named if name not in wanted]
    if missing or extra:
        raise UsageError(f"{source} does not fit {target}: {_names(missing, extra, wanted, tensors)}.")
    for name, tensor in named.items():
        _check_tensor(name, tensor, wanted[name], f"{source} does not fit {target}")
    try:
        model.load_state_dict(named, strict=False)
    except RuntimeError as error:
        raise UsageError(f"{source} does not fit {target}: {' '.join(str(error).split())[:300]}.") from error
    return prefix


def _prefix(tensors: Mapping[str, Tensor], wanted: Collection[str]) -> str:
    """What wrappers put before every name, and with which taken off all names fit; empty where they fit as they are."""
    first, prefix = next(iter(tensors), ""), ""
    while not set(tensors) <= {prefix + name for name in wanted}:
        part = first.removeprefix(prefix).partition(".")[0]
        prefix += f"{part}."
        if part not in WRAPPERS or not all(name.startswith(prefix) for name in tensors):
            return ""
    return prefix


def _need_not_be(name: str, wanted: Mapping[str, Tensor], named: Collection[str]) -> bool:
    """Of several names that share their memory safetensors keep one; a count of batches decides no answer."""
    own = wanted[name]
    if name.endswith("num_batches_tracked"):
        return True
    return (
        own.numel() > 0
        and own.device.type != "meta"
        and any(
            other in named and tensor.data_ptr() == own.data_ptr() and tensor.shape == own.shape
            for other, tensor in wanted.items()
        )
    )


def _check_tensor(name: str, tensor: Tensor, own: Tensor, where: str) -> None:
    if isinstance(own, nn.UninitializedParameter | nn.UninitializedBuffer):
        return
    if tensor.shape != own.shape:
        raise UsageError(f"{where}: {name} has shape {tuple(tensor.shape)}, expected {tuple(own.shape)}.")
    if tensor.is_floating_point() != own.is_floating_point() or tensor.is_complex() != own.is_complex():
        raise UsageError(f"{where}: {name} holds {_plain(tensor.dtype)}, expected {_plain(own.dtype)}.")


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _names(
    missing: Sequence[str], extra: Sequence[str], wanted: Collection[str], tensors: Collection[str]
) -> str:
    """What does not fit, the first of each with their number, and what would mend it where one thing does."""
    parts = [
        f"{len(names)} of {len(of)} names {what} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for names, of, what in (
            (missing, wanted, "of the model are not in the file"),
            (extra, tensors, "of the file are not in the model"),
        )
        if names
    ]
    return "; ".join(parts) + _cure(wanted, tensors)


def _cure(wanted: Collection[str], tensors: Collection[str]) -> str:
    """A prefix that one side has before every name of the other."""
    if not wanted or not tensors:
        return ""
    for inner, outer, say in (
        (wanted, tensors, "take {!r} off the names of the file"),
        (tensors, wanted, "put {!r} before the names of the file, or return what is wrapped"),
    ):
        some = min(inner, key=len)
        found = {name.removesuffix(some) for name in outer if name.endswith(f".{some}")}
        for prefix in sorted(found, key=len):
            if {prefix + name for name in inner} <= set(outer):
                return f": {say.format(prefix)}"
    return ""

"""Weights as people have them: what a file is that is no safetensors, and what wrappers put before every name."""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import no_file

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".tar", ".th")
WRAPPERS = ("module", "_orig_mod", "model", "state_dict", "model_state_dict", "net", "network", "classifier")
"""What DataParallel, `torch.compile`, Lightning and training scripts put before every name."""

SHOWN = 3  # names of each kind in a message
MOST = 1 << 30  # bytes that a header of safetensors never has


def what_it_is(path: Path) -> str:
    """Why a file is no safetensors, in words that say how to mend it; empty where it looks like one.

    Judged by what it holds and not by its name. Nothing is unpickled. Raises OSError where it cannot be read.
    """
    if why := no_file(path):
        return why
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(1024)
    if not start:
        return "it is empty: the copy or the download was cut off"
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else MOST
    if length < MOST and start[8:9] == b"{":  # looked at first: a length of 640 begins as a pickle does
        return _cut_off(path, length, size)
    if start.startswith(b"PK\x03\x04"):
        return _archive(path)
    if re.match(rb"\x80[\x02-\x05]", start) or start[257:262] == b"ustar":
        return _pickle(path)
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-lfs, not the file: run `git lfs pull` where it came from"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it is a page of the web, saved in place of the file: download it anew"
    for magic, what in (
        (b"\x89HDF", "HDF5, as of Keras"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"GGUF", "GGUF"),
    ):
        if start.startswith(magic):
            return f"it is {what}: load it where it came from and save it by safetensors.torch.save_file"
    if start.startswith(b"{") and path.name.lower().endswith(".index.json"):
        return (
            "it is the list of a model's shards: join them once: import glob, safetensors.torch; "
            f"parts = glob.glob({str(path.parent / '*.safetensors')!r}); safetensors.torch.save_file({{name: t "
            "for part in parts for name, t in safetensors.torch.load_file(part).items()}, 'joined.safetensors')"
        )
    if path.suffix.lower() == ".onnx":
        return "it is ONNX, a graph and no weights by name: save the torch model's by safetensors.torch.save_file"
    if path.suffix.lower() in PICKLES and not start.startswith((b"{", b"[")):
        return _pickle(path, "it does not begin as a safetensors file does; if it is")
    return "it does not begin as a safetensors file does"


def _cut_off(path: Path, length: int, size: int) -> str:
    """Whether a file is shorter than its header says; `length` are the header's bytes."""
    needed, known = 8 + length, "at least "
    if needed <= size:
        with path.open("rb") as file:
            header = file.read(needed)
        ends = re.findall(rb'"data_offsets":\s*\[\s*\d+\s*,\s*(\d+)\s*\]', header)
        needed, known = needed + max(map(int, ends), default=0), ""
    if size >= needed:
        return ""
    return f"it is cut off: it has {size} of {known}{needed} bytes; copy or download it again"


def _archive(path: Path) -> str:
    """A zip file: what torch.save writes since 2020, TorchScript, NumPy's archive, or another."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return _pickle(path, "it is cut off, and was")
    if any(name.endswith("constants.pkl") for name in names):
        return "it is TorchScript: " + _convert(f"torch.jit.load({str(path)!r}).state_dict()", path)
    if any(name.endswith("data.pkl") for name in names):
        return _pickle(path)
    what = "a NumPy archive" if any(name.endswith(".npy") for name in names) else "a zip archive"
    return f"it is {what}: load what it holds and save it by safetensors.torch.save_file"


def _pickle(path: Path, so: str = "it is") -> str:
    load = f"torch.load({str(path)!r}, map_location='cpu', weights_only=True)"
    return (
        f"{so} a pickle, as torch.save writes, and nothing is unpickled here: {_convert(load, path)}; where they lie "
        "deeper, save state['state_dict']"
    )


def _convert(load: str, path: Path) -> str:
    suffix = "-converted.safetensors" if path.suffix == ".safetensors" else ".safetensors"
    out = f"{path.stem}{suffix}"
    return (
        f"convert it once: import torch, safetensors.torch; state = {load}; "
        f"safetensors.torch.save_file(state, {out!r})"
    )


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

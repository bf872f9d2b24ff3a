"""What a file is that is no safetensors, by what it holds, in words that say how to mend it."""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".tar", ".th")
MOST = 1 << 30  # bytes that a header of safetensors never has
PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")
OTHERS = (
    (b"\x89HDF", "HDF5, as of Keras"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF", "GGUF"),
)  # fmt: skip


def no_safetensors(path: Path) -> str:
    """Why a file is no safetensors, in words that say how to mend it; empty where it looks like one.

    Judged by what it holds and not by its name. Nothing is unpickled. Raises OSError where it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(1024)
    if not start:
        return "it is empty: the copy or the download was cut off"
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else MOST
    if length < MOST and start[8:9] == b"{":  # looked at first: a length of 640 begins as a pickle does
        return _cut_off(path, length, size)
    return _of_another_kind(path, start)


def _of_another_kind(path: Path, start: bytes) -> str:
    """What begins so, and how to make safetensors of it."""
    if start.startswith(b"PK\x03\x04"):
        return _archive(path)
    if re.match(rb"\x80[\x02-\x05]", start) or start[257:262] == b"ustar":
        return _pickle(path)
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-lfs, not the file: run `git lfs pull` where it came from"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower().startswith(PAGES):
        return "it is a page of the web, saved in place of the file: download it anew"
    for magic, what in OTHERS:
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

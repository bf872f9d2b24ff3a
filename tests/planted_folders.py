"""Folders and zips of small pictures, written where a test asks for them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cow")


def png(seed: int, *, size: tuple[int, int] = (6, 6), mode: str = "RGB") -> bytes:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    array = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def images(count: int = 10, prefix: str = "") -> dict[str, bytes]:
    return {
        f"{prefix}{name}/{number:02}.png": png(100 * label + number)
        for label, name in enumerate(CLASSES)
        for number in range(count)
    }


def official() -> dict[str, bytes]:
    return {**images(8, "train/"), **images(3, "test/")}


def write_directory(path: Path, files: dict[str, bytes]) -> str:
    path.mkdir()
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return str(path)


def write_zip(path: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)

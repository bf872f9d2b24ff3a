"""Image files as arrays: what Pillow reads of one, upright, in grey or RGB, at one size."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from robustbench_gan.base.errors import UsageError, said

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats tried; Pillow knows more, some of which start other programs."""

MODES = {1: "L", 3: "RGB"}
"""How Pillow names images of one channel (grey) and of three (red, green, blue)."""

MAX_BYTES = 64 << 20
MAX_PIXELS = 50_000_000
"""Above these, a file is refused rather than allowed to fill the memory."""

CHUNK = 256
"""Images per task of the thread pool: enough that the pool itself costs nothing."""

ORIENTATION = 0x0112
"""The tag of EXIF that says how a camera was held."""

File = tuple[str, ...]
"""The parts of a file's name below its root."""


@dataclass(frozen=True)
class Pictures:
    """Images (N, C, H, W) uint8 in the order of their files, and those of them with pixels that are see-through."""

    images: NDArray[np.uint8]
    transparent: tuple[File, ...]


def decode_all(
    source: str, files: Sequence[File], read: Callable[[File], bytes], size: int, channels: int
) -> Pictures:
    """Read every file. Raises UsageError that names the first one, in order, that is no whole image."""
    images = np.empty((len(files), channels, size, size), dtype=np.uint8)
    clear = np.zeros(len(files), dtype=bool)

    def decode(start: int) -> None:
        for at, file in enumerate(files[start : start + CHUNK], start):
            try:
                images[at], clear[at] = decoded(read(file), size, MODES[channels])
            except Exception as error:
                # Decoders of damaged files fail in many ways, and the file must be named whichever it is.
                place = "/".join((source, *file))
                unknown = isinstance(error, UnidentifiedImageError)
                why = "it is no image of a known kind" if unknown else " ".join(said(error).split())
                raise UsageError(f"{place}: expected an image that can be read ({why})") from error

    # Pillow lets other threads run while it decodes. The first damaged file, in order, is the one reported.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        try:
            for _ in pool.map(decode, range(0, len(files), CHUNK)):
                pass
        except UsageError:
            pool.shutdown(cancel_futures=True)
            raise
    return Pictures(images, tuple(file for file, seen in zip(files, clear, strict=True) if seen))


def decoded(content: bytes, size: int, mode: str) -> tuple[NDArray[np.uint8], bool]:
    """One image as (C, size, size), and whether any of it is transparent. Raises whatever Pillow raises."""
    check_bytes(len(content))
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UsageError(f"it is {width}x{height}, at most {MAX_PIXELS} pixels are allowed")
        if image.mode.startswith(("I", "F")):
            # Pillow would clip the values at 255 instead of scaling them.
            raise UsageError(f"it has more than 8 bits per channel (mode {image.mode})")
        image.load()
        upright = _upright(image)
        clear = upright.has_transparency_data and _is_clear(upright)
        converted = upright.convert(mode)
    if converted.size != (size, size):
        converted = converted.resize((size, size), Image.Resampling.BICUBIC)
    array = np.asarray(converted, dtype=np.uint8)
    return (array[np.newaxis] if array.ndim == 2 else array.transpose(2, 0, 1)), clear


def check_bytes(count: int) -> None:
    """Raise UsageError for a file that is too long."""
    if count > MAX_BYTES:
        raise UsageError(f"it has {count} bytes, at most {MAX_BYTES} are allowed")


def _upright(image: Image.Image) -> Image.Image:
    """The image as it was seen, where its EXIF says that the camera was turned; EXIF that is damaged says nothing."""
    try:
        return image if image.getexif().get(ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)
    except Exception:
        return image


def _is_clear(image: Image.Image) -> bool:
    """Some pixel is not opaque."""
    lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
    return float(lowest) < 255  # type: ignore[arg-type]

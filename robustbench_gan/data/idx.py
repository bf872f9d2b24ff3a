"""A strict reader of gzip-compressed IDX files, the format of MNIST and Fashion-MNIST."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_gan.base.errors import UsageError
from robustbench_gan.data.dataset import Split

UNSIGNED_BYTE = 0x08
"""The code of the one IDX element type accepted here."""


@dataclass(frozen=True)
class IdxFile:
    """Describes what one IDX file must hold.

    Attributes:
        name: the file name, ending in .gz.
        shape: the length of every dimension.
        sha256: the SHA-256, in hexadecimal, of the uncompressed content, so that any compression is accepted.
    """

    name: str
    shape: tuple[int, ...]
    sha256: str


def read_idx(packed: bytes, expected: IdxFile, source: str) -> NDArray[np.uint8]:
    """Unpack one gzip-compressed IDX file of unsigned bytes into an array of shape `expected.shape`.

    Args:
        packed: the bytes of the compressed file.
        expected: what the file must hold.
        source: how error messages name the file.

    Raises:
        UsageError: the file is not gzip, is truncated or corrupt, or holds anything but the expected data.
    """
    header = _header(expected.shape)
    length = len(header) + int(np.prod(expected.shape))
    content = _unpack(packed, length, source)
    if content[: len(header)] != header:
        found, wanted = content[: len(header)].hex(), header.hex()
        raise UsageError(f"{source}: expected an IDX file starting {wanted}, found {found or 'nothing'}")
    if len(content) != length:
        found = "more" if len(content) > length else str(len(content))
        raise UsageError(f"{source}: expected {length} bytes of IDX data, found {found}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != expected.sha256:
        raise UsageError(f"{source}: expected content with SHA-256 {expected.sha256}, found {digest}")
    return np.frombuffer(content, dtype=np.uint8, offset=len(header)).reshape(expected.shape)


def idx_split(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Split:
    """Make a split of grey images, (N, 1, H, W), from IDX images (N, H, W) and labels (N,)."""
    # The copy gives the tensor memory that may be written to; the array views immutable bytes.
    pixels = torch.from_numpy(images.copy()).unsqueeze(1)
    return Split(pixels, torch.from_numpy(labels.astype(np.int64)))


def _header(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, UNSIGNED_BYTE, len(shape), *shape)


def _unpack(packed: bytes, length: int, source: str) -> bytes:
    try:
        with gzip.open(io.BytesIO(packed)) as stream:
            # One byte beyond the expected length makes gzip reach its checksum, shows surplus data, and
            # bounds what a hostile file can make us hold in memory.
            return stream.read(length + 1)
    except EOFError:
        raise UsageError(f"{source}: expected a whole gzip file, found a truncated one") from None
    except (OSError, zlib.error) as error:
        raise UsageError(f"{source}: expected a gzip file, found a corrupt one ({error})") from None

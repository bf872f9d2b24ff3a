"""CIFAR-10, found on this machine or downloaded: 32x32 colour images of ten kinds of things."""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_gan.base.errors import UsageError
from robustbench_gan.data.dataset import Dataset, Split
from robustbench_gan.data.sources import Wanted, obtain

# The binary version holds nothing but bytes; the better known Python version would have to be unpickled.
FOLDER = "cifar-10-batches-bin"
WANTED = Wanted(
    dataset="cifar10",
    file="cifar-10-binary.tar.gz",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    unpacked=FOLDER,
)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
"""Bytes per image: one label, then red, green and blue, each row by row."""

RECORDS = 10_000
"""Images per file."""

TRAIN = 45_000
"""How many of the official training images train; the 5,000 after them validate."""

ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
"""The archive as its authors publish it: one that matches needs no further check."""

SHA256 = {
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
}
"""The content of each file; the five training files come first and in order."""


def cifar10() -> Dataset:
    """Load CIFAR-10: (3, 32, 32) images; 45,000 train, 5,000 validation, 10,000 test.

    Training images are the first 45,000 of the official training set, validation images the last 5,000.
    The archive cifar-10-binary.tar.gz, or its unpacked folder cifar-10-batches-bin, is taken from
    `$RBG_DATA_DIR/cifar10`, `/usr/share/datasets/cifar10` or the cache, else downloaded.

    Raises:
        UsageError: the data are damaged, or found nowhere and cannot be downloaded.
    """
    batches = obtain(WANTED, _read)
    training = np.concatenate([batches[name] for name in SHA256 if name != "test_batch.bin"])
    return Dataset(
        name="cifar10",
        classes=CLASSES,
        train=_split(training[:TRAIN]),
        validation=_split(training[TRAIN:]),
        test=_split(batches["test_batch.bin"]),
    )


def _read(path: Path) -> dict[str, NDArray[np.uint8]]:
    contents = _read_folder(path) if path.is_dir() else _read_archive(path)
    published = path.is_file() and _md5(path) == ARCHIVE_MD5
    return {name: _records(contents.get(name), name, path, published) for name in SHA256}


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _read_folder(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in SHA256 if (path / name).is_file()}


def _read_archive(path: Path) -> dict[str, bytes]:
    """Read the wanted members into memory, in one pass; no name in the archive is used as a path."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                folder, _, name = member.name.partition("/")
                # The exact size keeps a hostile archive from filling the memory; a link has size 0.
                wanted = folder == FOLDER and name in SHA256 and member.size == RECORD * RECORDS
                stream = archive.extractfile(member) if wanted else None
                if stream is not None:
                    contents[name] = stream.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UsageError(f"{path}: expected a whole gzip-compressed tar archive ({error})") from None
    return contents


def _records(content: bytes | None, name: str, path: Path, published: bool) -> NDArray[np.uint8]:
    length = RECORD * RECORDS
    if content is None or len(content) != length:
        raise UsageError(f"{path}: expected a file {name} of {length} bytes in it, found none such")
    digest = hashlib.sha256(content).hexdigest()
    if not published and digest != SHA256[name]:
        raise UsageError(f"{path}: expected {name} with SHA-256 {SHA256[name]}, found {digest}")
    return np.frombuffer(content, dtype=np.uint8).reshape(RECORDS, RECORD)


def _split(records: NDArray[np.uint8]) -> Split:
    # The copies are contiguous and writable, as tensors should be; the records view immutable bytes.
    images = np.array(records[:, 1:]).reshape(-1, *SHAPE)
    return Split(torch.from_numpy(images), torch.from_numpy(records[:, 0].astype(np.int64)))

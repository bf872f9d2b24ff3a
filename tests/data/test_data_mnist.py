from __future__ import annotations

import gzip
import hashlib
import importlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from robustbench_gan.base.errors import UsageError
from robustbench_gan.data import Dataset
from robustbench_gan.data import mnist as mnist_module
from robustbench_gan.data.idx import IdxFile, idx_split, read_idx

BUNDLED = Path(mnist_module.__file__).parent / "mnist"
TEST_LABELS = mnist_module.TEST_LABELS


@pytest.fixture(scope="module")
def mnist() -> Dataset:
    return mnist_module.mnist()


def packed(shape: tuple[int, ...], body: bytes, *, kind: int = 8) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape) + body


def described(content: bytes, shape: tuple[int, ...]) -> IdxFile:
    return IdxFile("tiny.gz", shape, hashlib.sha256(content).hexdigest())


def test_module_is_found_although_a_folder_has_its_name() -> None:
    assert Path(importlib.import_module("robustbench_gan.data.mnist").__file__ or "").name == "mnist.py"
    assert BUNDLED.is_dir() and not (BUNDLED / "__init__.py").exists()


def test_sizes_and_shape(mnist: Dataset) -> None:
    assert (len(mnist.train), len(mnist.validation), len(mnist.test)) == (50_000, 10_000, 10_000)
    assert mnist.shape == (1, 28, 28)
    assert mnist.classes == tuple("0123456789")


def test_known_labels(mnist: Dataset) -> None:
    assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.validation.labels[:3].tolist() == [3, 8, 6]
    assert mnist.test.labels[0] == 7
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.test.labels.bincount().tolist() == counts
    official = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.cat([mnist.train.labels, mnist.validation.labels]).bincount().tolist() == official


def test_known_pixels(mnist: Dataset) -> None:
    official = torch.cat([mnist.train.images, mnist.validation.images])
    values = np.arange(256) / 255
    share = np.bincount(official.flatten().numpy(), minlength=256) / official.numel()
    mean = (share * values).sum()
    # The figures that everyone normalises MNIST with.
    assert mean == pytest.approx(0.1307, abs=5e-5)
    assert np.sqrt((share * (values - mean) ** 2).sum()) == pytest.approx(0.3081, abs=5e-5)


def test_digest_is_known(mnist: Dataset) -> None:
    assert mnist.digest == "d41914b0abd2bf9aa5decd81fedaef7e26140ecc50373c8b2afda55fe7a56baa"


def test_attribution_names_authors_and_licence() -> None:
    text = (BUNDLED / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for part in ("Yann LeCun", "Corinna Cortes", "Christopher J.C. Burges", "CC BY-SA 3.0", "recompressed"):
        assert part in text


def damage_flip(data: bytes) -> bytes:
    return data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]


def damage_recompress(data: bytes) -> bytes:
    return gzip.compress(gzip.decompress(data)[:-1] + b"\x09")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_flip, "found"),
        (damage_recompress, "expected content with SHA-256 ff7bcfd4"),
        (lambda data: data[:-1], "truncated"),
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: b"", "starting 00000801"),
        (lambda data: b"<html>not found</html>", "corrupt"),
        (lambda data: data[:-8] + bytes(8), "corrupt"),
        (lambda data: data + b"rubbish", "corrupt"),
    ],
    ids=["flip", "one label", "last byte", "half", "empty", "html", "checksum", "surplus"],
)
def test_damaged_copies_are_refused(damage: object, message: str, tmp_path: Path) -> None:
    copy = tmp_path / TEST_LABELS.name
    copy.write_bytes(damage((BUNDLED / TEST_LABELS.name).read_bytes()))  # type: ignore[operator]
    with pytest.raises(UsageError, match=message) as caught:
        read_idx(copy.read_bytes(), TEST_LABELS, str(copy))
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize("present", [True, False], ids=["corrupt", "missing"])
def test_damaged_package_names_file_and_remedy(
    present: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mnist").mkdir()
    file = tmp_path / "mnist" / mnist_module.TRAIN_IMAGES.name
    if present:
        file.write_bytes(b"damaged")
    monkeypatch.setattr(mnist_module.resources, "files", lambda _: tmp_path)
    with pytest.raises(UsageError, match="reinstall robustbench-gan") as caught:
        mnist_module.mnist()
    assert str(file) in str(caught.value)


def test_any_compression_is_accepted() -> None:
    content = packed((2, 3), bytes(range(6)))
    for level in (0, 9):
        array = read_idx(gzip.compress(content, level), described(content, (2, 3)), "tiny.gz")
        assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (packed((2, 3), bytes(6), kind=9), "starting 00000802"),
        (b"\x01" + packed((2, 3), bytes(6))[1:], "starting 00000802"),
        (packed((6,), bytes(6)), "starting 00000802"),
        (packed((3, 2), bytes(6)), "starting 00000802"),
        (packed((2, 3), bytes(5)), "expected 18 bytes of IDX data, found 17"),
        (packed((2, 3), bytes(7)), "expected 18 bytes of IDX data, found more"),
        (packed((2, 3), b"\x01" + bytes(5)), "expected content with SHA-256"),
        (b"\x00\x00\x08", "found 000008"),
    ],
    ids=["type", "magic", "dimensions", "lengths", "short", "long", "values", "no header"],
)
def test_idx_is_read_strictly(content: bytes, message: str) -> None:
    expected = described(packed((2, 3), bytes(6)), (2, 3))
    with pytest.raises(UsageError, match=message):
        read_idx(gzip.compress(content), expected, "tiny.gz")


def test_idx_split_gives_grey_writable_images() -> None:
    content = packed((2, 3, 4), bytes(range(24)))
    array = read_idx(gzip.compress(content), described(content, (2, 3, 4)), "tiny.gz")
    split = idx_split(array, np.array([1, 0], dtype=np.uint8))
    assert split.images.shape == (2, 1, 3, 4)
    assert split.images.flatten().tolist() == list(range(24))
    split.images[0] = 7
    assert array[0, 0, 0] == 0

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import pytest
import torch

from robustbench_gan.base.errors import UsageError
from robustbench_gan.data import fashion_mnist as module
from robustbench_gan.data import sources
from robustbench_gan.data.idx import IdxFile

PARTS = ("TRAIN_IMAGES", "TRAIN_LABELS", "TEST_IMAGES", "TEST_LABELS")


def idx(shape: tuple[int, ...], seed: int) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    body = torch.randint(0, 10, shape, dtype=torch.uint8, generator=generator).numpy().tobytes()
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + body


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a fabricated data set of 6 + 3 images where the real one is looked for."""
    place = tmp_path / "fashion-mnist"
    place.mkdir()
    for seed, (part, shape) in enumerate(zip(PARTS, [(6, 4, 4), (6,), (3, 4, 4), (3,)], strict=True)):
        content = idx(shape, seed)
        described = IdxFile(getattr(module, part).name, shape, hashlib.sha256(content).hexdigest())
        monkeypatch.setattr(module, part, described)
        (place / described.name).write_bytes(gzip.compress(content))
    monkeypatch.setattr(module, "TRAIN", 5)
    monkeypatch.setattr(sources, "SYSTEM_DIR", tmp_path / "system")
    monkeypatch.setenv("RBG_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "cache"))
    return place


def test_fabricated_files_are_split(tiny: Path) -> None:
    dataset = module.fashion_mnist()
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (5, 1, 3)
    assert dataset.name == "fashion-mnist"
    assert dataset.classes[0] == "T-shirt/top" and dataset.classes[9] == "Ankle boot"
    assert bytes(dataset.validation.images.flatten().tolist()) == idx((6, 4, 4), 0)[-16:]


def test_wrong_content_names_the_file(tiny: Path) -> None:
    file = tiny / module.TEST_LABELS.name
    file.write_bytes(gzip.compress(idx((3,), 99)))
    with pytest.raises(UsageError, match="expected content with SHA-256") as caught:
        module.fashion_mnist()
    assert str(file) in str(caught.value)


def test_a_missing_file_names_its_download(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, target: Path) -> None:
        raise ConnectionError("no network here")

    monkeypatch.setattr(sources, "fetch", refuse)
    (tiny / module.TEST_LABELS.name).unlink()
    with pytest.raises(UsageError, match=r"apt install dataset-fashion-mnist.*t10k-labels-idx1-ubyte\.gz"):
        module.fashion_mnist()


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip where the real data are not on this machine; tests never download them."""
    names = [getattr(module, part).name for part in PARTS]
    places = sources._places("fashion-mnist")
    if not all(any((place / name).is_file() for place in places) for name in names):
        pytest.skip("needs Fashion-MNIST: set RBG_DATA_DIR")


@pytest.mark.usefixtures("real")
def test_real_fashion_mnist() -> None:
    dataset = module.fashion_mnist()
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (50_000, 10_000, 10_000)
    assert dataset.shape == (1, 28, 28)
    assert dataset.train.labels[:3].tolist() == [9, 0, 0]
    assert dataset.test.labels.bincount().tolist() == [1000] * 10
    official = torch.cat([dataset.train.labels, dataset.validation.labels])
    assert official.bincount().tolist() == [6000] * 10
    assert dataset.digest == "bdf8aea3daffdce1ef30598f4e7ab3b46bf4b11553cb9b101662ba382a6c25bf"

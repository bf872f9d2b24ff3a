from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from robustbench_gan.base.errors import UsageError
from robustbench_gan.data import Dataset, sources
from robustbench_gan.data import cifar10 as module

RECORDS = 4


def batches() -> dict[str, bytes]:
    """Fabricate six files of four records: a label, then 3072 random bytes."""
    made = {}
    for seed, name in enumerate(module.SHA256):
        records = np.random.default_rng(seed).integers(0, 256, (RECORDS, module.RECORD), dtype=np.uint8)
        records[:, 0] = np.arange(RECORDS) + seed
        made[name] = records.tobytes()
    return made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the reader expect the fabricated files, in a place of this test, without network."""

    def refuse(url: str, target: Path) -> None:
        raise ConnectionError("no network here")

    monkeypatch.setattr(module, "RECORDS", RECORDS)
    monkeypatch.setattr(module, "TRAIN", 18)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in batches().items()}
    monkeypatch.setattr(module, "SHA256", digests)
    monkeypatch.setattr(sources, "SYSTEM_DIR", tmp_path / "system")
    monkeypatch.setattr(sources, "fetch", refuse)
    monkeypatch.setenv("RBG_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cifar10").mkdir()
    return tmp_path / "cifar10"


def write_archive(place: Path, contents: dict[str, bytes], prefix: str = "cifar-10-batches-bin/") -> Path:
    path = place / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_folder(place: Path, contents: dict[str, bytes]) -> Path:
    folder = place / "cifar-10-batches-bin"
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def check(dataset: Dataset) -> None:
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (18, 2, RECORDS)
    assert dataset.shape == (3, 32, 32)
    assert dataset.name == "cifar10"
    contents = batches()
    training = b"".join(contents[f"data_batch_{number}.bin"] for number in range(1, 6))
    official = torch.cat([dataset.train.images, dataset.validation.images])
    labels = torch.cat([dataset.train.labels, dataset.validation.labels])
    for index in (0, 7, 19):
        record = training[index * module.RECORD : (index + 1) * module.RECORD]
        assert labels[index] == record[0]
        assert official[index].numpy().tobytes() == record[1:]
    assert dataset.test.labels.tolist() == [5, 6, 7, 8]


def test_archive_round_trip(place: Path) -> None:
    write_archive(place, {"readme.html": b"ignored", **batches()})
    check(module.cifar10())


def test_folder_round_trip(place: Path) -> None:
    write_folder(place, batches())
    check(module.cifar10())


def test_archive_and_folder_are_the_same_data(place: Path) -> None:
    write_folder(place, batches())
    unpacked = module.cifar10().digest
    write_archive(place, batches())
    assert module.cifar10().digest == unpacked


@pytest.mark.parametrize("write", [write_archive, write_folder])
def test_wrong_content_is_refused(write: object, place: Path) -> None:
    contents = batches()
    contents["data_batch_3.bin"] = contents["data_batch_3.bin"][:-1] + b"\x00"
    path = write(place, contents)  # type: ignore[operator]
    with pytest.raises(UsageError, match=r"expected data_batch_3\.bin with SHA-256") as caught:
        module.cifar10()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("write", [write_archive, write_folder])
@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"\x00", None])
def test_wrong_length_or_absence_is_refused(change: object, write: object, place: Path) -> None:
    contents = batches()
    content = contents.pop("test_batch.bin")
    if change is not None:
        contents["test_batch.bin"] = change(content)  # type: ignore[operator]
    write(place, contents)  # type: ignore[operator]
    with pytest.raises(UsageError, match=r"expected a file test_batch\.bin of 12292 bytes"):
        module.cifar10()


@pytest.mark.parametrize("prefix", ["", "../cifar-10-batches-bin/", "/cifar-10-batches-bin/", "other/"])
def test_members_count_by_their_exact_name_only(prefix: str, place: Path) -> None:
    write_archive(place, batches(), prefix)
    with pytest.raises(UsageError, match=r"expected a file data_batch_1\.bin"):
        module.cifar10()
    assert sorted(path.name for path in place.rglob("*")) == ["cifar-10-binary.tar.gz"]


def test_links_in_the_archive_are_not_followed(place: Path) -> None:
    secret = place.parent / "secret"
    secret.write_bytes(batches()["test_batch.bin"])
    with tarfile.open(place / "cifar-10-binary.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        member.type, member.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(member)
    with pytest.raises(UsageError, match="expected a file"):
        module.cifar10()


@pytest.mark.parametrize("cut", [0, 100, -20], ids=["empty", "start", "end"])
def test_truncated_archive_is_refused(cut: int, place: Path) -> None:
    path = write_archive(place, batches())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UsageError) as caught:
        module.cifar10()
    assert str(path) in str(caught.value)


def test_offline_the_error_names_archive_and_folder(place: Path) -> None:
    with pytest.raises(UsageError, match=r"cifar-10-binary\.tar\.gz or the folder cifar-10-batches-bin"):
        module.cifar10()

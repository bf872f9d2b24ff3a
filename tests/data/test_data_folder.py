"""Folders and zips of pictures as data: how they are split, read, resized and converted."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from planted_folders import CLASSES, images, official, png, write_directory, write_zip

from robustbench_gan.data.folder import folder
from robustbench_gan.nouns.spec import Spec


def test_every_class_is_split_by_the_fractions(tmp_path: Path) -> None:
    dataset = folder(path=write_directory(tmp_path / "zoo", images()), size=6)
    assert dataset.classes == CLASSES
    assert dataset.name == "zoo"
    assert dataset.shape == (3, 6, 6)
    for split, count in ((dataset.train, 7), (dataset.validation, 1), (dataset.test, 2)):
        assert split.labels.bincount().tolist() == [count] * 3


def test_images_keep_their_pixels_and_labels(tmp_path: Path) -> None:
    files = images()
    dataset = folder(path=write_directory(tmp_path / "zoo", files), size=6)
    expected = {}
    for name, content in files.items():
        pixels = np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)
        expected[pixels.tobytes()] = CLASSES.index(name.split("/")[0])
    found = {}
    for split in (dataset.train, dataset.validation, dataset.test):
        for image, label in zip(split.images, split.labels, strict=True):
            found[image.numpy().tobytes()] = int(label)
    assert found == expected


def test_the_split_is_known(tmp_path: Path) -> None:
    # A change of this order would change results without changing the data.
    dataset = folder(path=write_directory(tmp_path / "zoo", images()), size=6)
    assert dataset.test.labels.tolist() == [2, 2, 0, 1, 1, 0]
    assert dataset.train.labels.tolist()[:10] == [2, 1, 1, 1, 0, 0, 2, 2, 2, 0]


def test_train_and_test_folders_are_the_split(tmp_path: Path) -> None:
    dataset = folder(path=write_directory(tmp_path / "zoo", official()), size=6, validation_fraction=0.25)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [18, 6, 9]
    assert dataset.validation.labels.bincount().tolist() == [2, 2, 2]


def test_the_splits_are_mixtures_of_the_classes(tmp_path: Path) -> None:
    dataset = folder(path=write_directory(tmp_path / "zoo", images(40)), size=6)
    for split in (dataset.train, dataset.test):
        assert set(split.labels[:12].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("files", [images(), official()], ids=["plain", "official"])
def test_directory_and_zip_are_the_same_data(files: dict[str, bytes], tmp_path: Path) -> None:
    plain = folder(path=write_directory(tmp_path / "zoo", files), size=8)
    packed = folder(path=write_zip(tmp_path / "zoo.zip", dict(reversed(files.items()))), size=8)
    wrapped = {f"top/{name}": content for name, content in files.items()}
    within = folder(path=write_zip(tmp_path / "other.zip", {"top/": b"", **wrapped}), size=8, name="zoo")
    assert plain.digest == packed.digest == within.digest
    assert plain.digest == folder(path=str(tmp_path / "zoo"), size=8).digest


def test_images_are_resized_and_converted(tmp_path: Path) -> None:
    files = {
        f"{name}/{number}.png": png(number, size=(9, 5), mode=mode)
        for name, mode in (("grey", "L"), ("colour", "RGB"))
        for number in range(3)
    }
    path = write_directory(tmp_path / "mixed", files)
    assert folder(path=path, size=4).shape == (3, 4, 4)
    assert folder(path=path, size=12, channels=1).shape == (1, 12, 12)


def test_resizing_antialiases(tmp_path: Path) -> None:
    # One pixel wide stripes: without antialiasing the result would be black or white, with it grey.
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    buffer = io.BytesIO()
    Image.fromarray(stripes).save(buffer, "PNG")
    files = {f"{name}/{number}.png": buffer.getvalue() for name in "ab" for number in range(3)}
    dataset = folder(path=write_directory(tmp_path / "stripes", files), size=8, channels=1)
    assert (dataset.train.images.to(torch.int64) - 127).abs().max() < 20


def test_desktop_files_and_readmes_are_ignored(tmp_path: Path) -> None:
    clutter = {
        "README.txt": b"",
        ".DS_Store": b"",
        ".git/config": b"",
        "ant/.hidden.png": b"",
        "bee/Thumbs.db": b"",
        "__MACOSX/ant/._00.png": b"",
    }
    clean = folder(path=write_directory(tmp_path / "zoo", images()), size=6)
    noisy = folder(path=write_zip(tmp_path / "zoo.zip", {**clutter, **images()}), size=6)
    spread = folder(path=write_directory(tmp_path / "copy", {**clutter, **images()}), size=6, name="zoo")
    assert clean.digest == noisy.digest == spread.digest


def test_macosx_folder_does_not_hide_a_common_top(tmp_path: Path) -> None:
    files = {f"top/{name}": content for name, content in images().items()}
    path = write_zip(tmp_path / "zoo.zip", {**files, "__MACOSX/top/._x": b""})
    assert folder(path=path, size=6).classes == CLASSES


@pytest.mark.parametrize("write", [write_directory, write_zip])
@pytest.mark.parametrize(
    ("parts", "counts"),
    [
        ({"train": 8, "val": 4, "test": 3}, (24, 12, 9)),
        ({"Training": 8, "VALID": 4, "Testing": 3}, (24, 12, 9)),
        ({"train": 8, "val": 4}, (21, 3, 12)),  # ImageNet: val is judged, a tenth of train validates
        ({"Train": 8, "Test": 3}, (21, 3, 9)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_the_parts_that_data_come_in_are_the_splits(write, parts, counts, tmp_path) -> None:
    files = {}
    for at, (part, count) in enumerate(parts.items()):
        files |= {name: png(1000 * at + n) for n, name in enumerate(images(count, f"{part}/"))}
    dataset = folder(path=write(tmp_path / "zoo.zip", files), size=6)
    splits = dataset.train, dataset.validation, dataset.test
    assert tuple(map(len, splits)) == counts
    judged = "".join(part for part in parts if part.lower().startswith("test")) or list(parts)[-1]
    pixels = {
        np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1).tobytes()
        for name, content in files.items()
        if name.startswith(f"{judged}/")
    }
    assert {image.numpy().tobytes() for image in dataset.test.images} == pixels
    assert all(split.labels.bincount().tolist() == [len(split) // 3] * 3 for split in splits)


def test_two_classes_that_are_called_as_parts_are_stay_classes(tmp_path: Path) -> None:
    files = {name.replace("ant/", "train/"): content for name, content in images().items()}
    assert folder(path=write_directory(tmp_path / "zoo", files), size=6).classes == ("bee", "cow", "train")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright_as_their_exif_says(orientation: int, tmp_path: Path) -> None:
    """The transformation that each value of the tag asks for, by numpy, of a 2x3 image (EXIF 2.3, 4.6.4)."""
    stored = np.random.default_rng(0).integers(0, 256, (2, 3), dtype=np.uint8)
    seen = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.T,
        6: np.rot90(stored, -1), 7: stored[::-1, ::-1].T, 8: np.rot90(stored),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned, upright = io.BytesIO(), io.BytesIO()
    Image.fromarray(stored).save(turned, "PNG", exif=exif)
    Image.fromarray(np.ascontiguousarray(seen)).save(upright, "PNG")
    found = [
        folder(path=write_directory(tmp_path / name, {f"{c}/{n}.png": content for c in "ab" for n in range(3)}), size=3)
        for name, content in (("turned", turned.getvalue()), ("upright", upright.getvalue()))
    ]  # fmt: skip
    assert torch.equal(found[0].train.images, found[1].train.images)


def test_transparency_is_dropped_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def rgba(alpha: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGBA", (6, 6), (10, 20, 30, alpha)).save(buffer, "PNG")
        return buffer.getvalue()

    path = write_directory(tmp_path / "zoo", {**images(), "bee/a.png": rgba(0), "cow/opaque.png": rgba(255)})
    dataset = folder(path=path, size=6)
    told = capsys.readouterr()
    assert told.out == ""
    assert (
        "1 of 32 images have transparent pixels, bee/a.png the first; their transparency is dropped"
        in told.err
    )
    every = torch.cat([dataset.train.images, dataset.validation.images, dataset.test.images])
    assert sum(bool((image == torch.tensor([10, 20, 30])[:, None, None]).all()) for image in every) == 2


@pytest.mark.parametrize("name", ["a b", "it's", "é(1)", "a=b,c+d:e"])
def test_odd_names_of_folders_are_read_through_a_spec(name: str, tmp_path: Path) -> None:
    write_directory(tmp_path / name, {key.replace("ant", name): content for key, content in images().items()})
    spec = Spec.parse(str(Spec("folder", (("path", str(tmp_path / name)), ("size", 6)))))
    dataset = folder(**dict(spec.params))
    assert set(dataset.classes) == {name, "bee", "cow"} and len(dataset.digest) == 64


def test_numbers_as_names_are_sorted_as_texts_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"{label}/{at}.png": png(100 * label + at) for label in (0, 2, 10) for at in range(4)}
    dataset = folder(path=write_directory(tmp_path / "digits", files), size=6)
    assert dataset.classes == ("0", "10", "2")
    assert "order of their names as texts" in capsys.readouterr().err
    folder(path=write_directory(tmp_path / "zoo", images()), size=6)
    assert capsys.readouterr().err == ""

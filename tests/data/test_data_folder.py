from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_gan.base.errors import UsageError
from robustbench_gan.data import kept, pictures
from robustbench_gan.data.dataset import Dataset
from robustbench_gan.data.folder import folder
from robustbench_gan.nouns.spec import Spec

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
    ("files", "message"),
    [
        ({}, "at least two folders named after classes, found none"),
        ({"loose.png": png(1)}, "found none"),
        ({"ant/1.png": png(1), "ant/2.png": png(2), "ant/3.png": png(3)}, "at least two folders"),
        ({**images(2), "bee/00.png": png(1)}, "too few images"),
        ({**images(), "bee/more/1.png": png(1)}, "expected <class>/<image> folders"),
        ({**official(), "more/ant/1.png": png(1)}, "nothing beside train and test, found more"),
        ({**official(), "test/emu/1.png": png(1)}, "same classes in train and test, not so: emu"),
        (
            {**official(), "Val/ant/1.png": png(1), "Val/bee/1.png": png(1)},
            "classes in train and Val, not so: cow",
        ),
        ({**official(), "Train/ant/1.png": png(1)}, "Train and train are the same part"),
        (
            {**images(prefix="test/"), **images(prefix="val/")},
            "train with test or val, found test, val alone",
        ),
        ({**images(), "bee/notes.txt": b"hello"}, "bee/notes.txt: expected an image that can be read"),
        ({**images(), "cow/05.png": png(5)[:90]}, "cow/05.png: expected an image that can be read"),
        ({**images(), "cow/05.png": b""}, "cow/05.png: expected an image that can be read"),
    ],
)
def test_bad_data_is_refused(write: object, files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "zoo.zip", files)  # type: ignore[operator]
    with pytest.raises(UsageError, match=message):
        folder(path=path, size=6)


def test_a_class_without_images_is_refused(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "zoo", images())
    (tmp_path / "zoo" / "emu").mkdir()
    with pytest.raises(UsageError, match="found none in emu"):
        folder(path=path)
    with pytest.raises(UsageError, match="found none in emu"):
        folder(path=write_zip(tmp_path / "zoo.zip", {"emu/": b"", **images()}))


def test_sixteen_bit_images_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(buffer, "PNG")
    path = write_directory(tmp_path / "zoo", {**images(), "ant/deep.png": buffer.getvalue()})
    with pytest.raises(UsageError, match=r"ant/deep\.png: .*more than 8 bits"):
        folder(path=path)


@pytest.mark.parametrize("limit", ["MAX_BYTES", "MAX_PIXELS"])
@pytest.mark.parametrize("write", [write_directory, write_zip])
def test_oversized_files_are_refused(
    limit: str, write: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "zoo.zip", images())  # type: ignore[operator]
    monkeypatch.setattr(f"robustbench_gan.data.pictures.{limit}", 35)
    with pytest.raises(UsageError, match="at most 35"):
        folder(path=path)


@pytest.mark.parametrize(
    "name",
    [
        "../../escaped.png",
        "ant/../../escaped.png",
        "/tmp/escaped.png",
        "C:/ant/1.png",
        "ant\\..\\1.png",
        "../",
    ],
)
def test_malicious_member_names_are_refused(name: str, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "zoo.zip", {**images(), name: png(1)})
    with pytest.raises(UsageError, match="expected relative names"):
        folder(path=path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["zoo.zip"]


def test_repeated_member_names_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "zoo.zip", {**images(), "ant/./00.png": png(1)})
    with pytest.raises(UsageError, match=r"found ant/\./00\.png twice"):
        folder(path=path)


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    path = tmp_path / "zoo.zip"
    write_zip(path, images())
    content = path.read_bytes()
    place = content.index(png(203)) + 60
    path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    with pytest.raises(UsageError, match=r"cow/03\.png: .*CRC"):
        folder(path=str(path))


@pytest.mark.parametrize("content", [b"", b"no zip", None], ids=["empty", "text", "missing"])
def test_something_else_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "zoo.zip"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"zoo\.zip: expected a directory or a"):
        folder(path=str(path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"size": 4096}, "size is 4096"),
        ({"channels": 2}, "channels is 2"),
        ({"test_fraction": 0.0}, "test_fraction is 0.0"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"test_fraction": float("nan")}, "test_fraction is nan"),
        ({"test_fraction": 0.6, "validation_fraction": 0.4}, "leave nothing to train on"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, float], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        folder(path=str(tmp_path), **arguments)  # type: ignore[arg-type]


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


def test_what_has_no_end_is_refused_and_never_read(tmp_path: Path) -> None:
    path = Path(write_directory(tmp_path / "zoo", images()))
    os.mkfifo(path / "bee" / "05b.png")
    with pytest.raises(UsageError, match=r"bee/05b\.png: .*it is a pipe"):
        folder(path=str(path), size=6)
    (path / "bee" / "05b.png").unlink()
    (path / "bee" / "05b.png").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=r"bee/05b\.png: .*it is a device"):
        folder(path=str(path), size=6)
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(UsageError, match=r"pipe\.zip: expected a directory or a \.zip file; it is a pipe"):
        folder(path=str(tmp_path / "pipe.zip"), size=6)


@pytest.mark.parametrize("name", ["~nobody-here/zoo", "x" * 5000, "a\0b", "~"])
def test_a_path_that_leads_nowhere_is_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(UsageError, match=r"expected a directory or a \.zip file"):
        folder(path=name)


@pytest.mark.parametrize("name", ["a b", "it's", "é(1)", "a=b,c+d:e"])
def test_odd_names_of_folders_are_read_through_a_spec(name: str, tmp_path: Path) -> None:
    write_directory(tmp_path / name, {key.replace("ant", name): content for key, content in images().items()})
    spec = Spec.parse(str(Spec("folder", (("path", str(tmp_path / name)), ("size", 6)))))
    dataset = folder(**dict(spec.params))
    assert set(dataset.classes) == {name, "bee", "cow"} and len(dataset.digest) == 64


# ---- what is kept of large folders


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[Dataset, int]]:
    """Load tmp_path/zoo, of which everything is kept, three seconds later; how many files were decoded for it."""
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "LEAST", 1)
    monkeypatch.setattr(kept, "SETTLED_NS", -3_000_000_000)
    read: list[int] = []
    monkeypatch.setattr(pictures, "check_bytes", read.append)

    def load(**more: Any) -> tuple[Dataset, int]:
        read.clear()
        found = next(path for path in (tmp_path / "zoo", tmp_path / "zoo.zip") if path.exists())
        return folder(path=str(found), size=6, **more), len(read)

    return load


@pytest.mark.parametrize("write", [write_directory, write_zip])
def test_a_large_folder_is_decoded_once(write: Any, settled: Any, tmp_path: Path) -> None:
    write(tmp_path / ("zoo.zip" if write is write_zip else "zoo"), images())
    (first, cold), (second, warm) = settled(), settled()
    assert (cold, warm) == (30, 0) and first.digest == second.digest
    other, decoded = settled(test_fraction=0.5)  # the same pixels, divided anew
    assert decoded == 0 and len(other.test) == 15
    assert settled(channels=1)[1] == 30
    for path in (tmp_path / "cache" / "decoded").iterdir():  # a bit that fell over on the disk is no data
        path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    again, decoded = settled()
    assert decoded == 30 and again.digest == first.digest


@pytest.mark.parametrize("change", ["content", "same size and time", "renamed", "added", "removed"])
def test_a_change_of_any_file_is_seen(change: str, settled: Any, tmp_path: Path) -> None:
    grey = {}
    for (
        name,
        content,
    ) in images().items():  # of one size, so that nothing but the time of its change shows an edit
        buffer = io.BytesIO()
        Image.open(io.BytesIO(content)).save(buffer, "BMP")
        grey[name] = buffer.getvalue()
    path = Path(write_directory(tmp_path / "zoo", grey))
    before, _ = settled()
    file, state = path / "ant" / "00.png", (path / "ant" / "00.png").stat()
    if change == "renamed":
        file.rename(path / "ant" / "zz.png")
    elif change == "added":
        (path / "ant" / "zz.png").write_bytes(file.read_bytes())
    elif change == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-8] + b"changed!")
        if change == "same size and time":
            os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    after, decoded = settled()
    assert decoded >= 29
    assert after.digest != before.digest
    assert settled()[1] == 0


def test_what_was_changed_a_moment_ago_is_not_kept(settled: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """It may change again within the same tick of the file system's clock."""
    write_directory(tmp_path / "zoo", images())
    monkeypatch.setattr(kept, "SETTLED_NS", 60_000_000_000)
    assert [settled()[1], settled()[1]] == [30, 30]


def test_what_cannot_be_kept_is_read_again(settled: Any, tmp_path: Path) -> None:
    write_directory(tmp_path / "zoo", images())
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "decoded").write_bytes(b"a file where the directory should be")
    assert [settled()[1], settled()[1]] == [30, 30]


def test_numbers_as_names_are_sorted_as_texts_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"{label}/{at}.png": png(100 * label + at) for label in (0, 2, 10) for at in range(4)}
    dataset = folder(path=write_directory(tmp_path / "digits", files), size=6)
    assert dataset.classes == ("0", "10", "2")
    assert "order of their names as texts" in capsys.readouterr().err
    folder(path=write_directory(tmp_path / "zoo", images()), size=6)
    assert capsys.readouterr().err == ""


def test_what_is_no_image_is_said_in_plain_words(tmp_path: Path) -> None:
    files = {**images(), "ant/notes.txt": b"hello"}
    with pytest.raises(UsageError, match=r"ant/notes\.txt: expected .* \(it is no image of a known kind\)"):
        folder(path=write_directory(tmp_path / "zoo", files), size=6)

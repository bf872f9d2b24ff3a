"""Folders and zips that are no data, or that do harm: refused in a line that names them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted_folders import images, official, png, write_directory, write_zip

from robustbench_gan.base.errors import UsageError
from robustbench_gan.data.folder import folder


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


def test_what_is_no_image_is_said_in_plain_words(tmp_path: Path) -> None:
    files = {**images(), "ant/notes.txt": b"hello"}
    with pytest.raises(UsageError, match=r"ant/notes\.txt: expected .* \(it is no image of a known kind\)"):
        folder(path=write_directory(tmp_path / "zoo", files), size=6)

"""What is kept of large folders, and when they are read again."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from planted_folders import images, write_directory, write_zip

from robustbench_gan.data import decoded, pictures
from robustbench_gan.data.dataset import Dataset
from robustbench_gan.data.folder import folder


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[Dataset, int]]:
    """Load tmp_path/zoo, of which everything is kept, three seconds later; how many files were decoded for it."""
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "LEAST", 1)
    monkeypatch.setattr(decoded, "SETTLED_NS", -3_000_000_000)
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
    monkeypatch.setattr(decoded, "SETTLED_NS", 60_000_000_000)
    assert [settled()[1], settled()[1]] == [30, 30]


def test_what_cannot_be_kept_is_read_again(settled: Any, tmp_path: Path) -> None:
    write_directory(tmp_path / "zoo", images())
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "decoded").write_bytes(b"a file where the directory should be")
    assert [settled()[1], settled()[1]] == [30, 30]

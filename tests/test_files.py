"""What is left of killed writes, links out of a directory, and streams that nobody reads any more."""

from __future__ import annotations

import fcntl
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustbench_gan.base.errors import Fatal, UsageError
from robustbench_gan.base.files import refuse_links, remove_leftovers, write_atomically
from robustbench_gan.base.streams import Forgiving

LEFT = f".tmp-{'0a' * 16}"


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    theirs = [tmp_path / ".tmp-other", tmp_path / f"{LEFT}.json", tmp_path / f".tmp-{'0A' * 16}"]
    for path in [deep / LEFT, tmp_path / LEFT, *theirs]:
        path.write_bytes(b"half")
    living = deep / f".tmp-{'1b' * 16}"
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_leftovers(tmp_path)
        assert not (tmp_path / LEFT).exists() and (deep / LEFT).exists()  # only where it was told to look
        remove_leftovers(tmp_path, below=True)
        assert not (deep / LEFT).exists() and living.exists()
    assert all(path.exists() for path in theirs)
    remove_leftovers(tmp_path, below=True)
    assert not living.exists()


def test_a_write_is_claimed_until_it_is_in_its_place(tmp_path, monkeypatch):
    seen = []
    real = os.fsync

    def sync(descriptor):
        real(descriptor)
        remove_leftovers(tmp_path)
        seen.extend(path.name for path in tmp_path.iterdir())

    monkeypatch.setattr(os, "fsync", sync)
    write_atomically(tmp_path / "a", b"whole")
    assert len(seen) == 1 and seen[0].startswith(".tmp-")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"whole"


@pytest.mark.parametrize("link", ["results", "results/grey", "results/grey/a.json"])
def test_nothing_is_written_through_a_link_out_of_its_directory(tmp_path, link):
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    elsewhere.mkdir()
    path = out / "results" / "grey" / "a.json"
    refuse_links(path, out)  # what is not there is no link
    (out / link).parent.mkdir(parents=True)
    (out / link).symlink_to(elsewhere)
    with pytest.raises(Fatal, match=f"{link} is a symbolic link"):
        refuse_links(path, out)
    (tmp_path / "way").symlink_to(out)  # the directory itself may be reached through one
    with pytest.raises(Fatal, match=f"way/{link} is a symbolic link"):
        refuse_links(tmp_path / "way" / path.relative_to(out), tmp_path / "way")
    (out / link).unlink()
    refuse_links(tmp_path / "way" / path.relative_to(out), tmp_path / "way")


def test_a_stream_falls_silent_where_its_reader_is_gone():
    read, write = os.pipe()
    os.close(read)
    stream = Forgiving(os.fdopen(write, "w"))
    for _ in range(3):
        stream.write("x" * 100_000)
        stream.flush()
    stream.close()


def test_a_stream_is_told_what_it_cannot_say_in_escapes():
    into = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stream = Forgiving(into)
    stream.write("caf\xe9 \udcff")
    stream.flush()
    assert into.buffer.getvalue() == b"caf\\xe9 \\udcff"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_is_said():
    with Path("/dev/full").open("w") as full, pytest.raises(UsageError, match="No space left"):
        stream = Forgiving(full)
        stream.write("x")
        stream.flush()


@pytest.mark.parametrize("closed", [1, 2])
def test_closed_output_after_success_is_success(closed):
    read, write = os.pipe()
    os.close(read)
    command = [
        sys.executable,
        "-c",
        "from robustbench_gan.cli import main; main()",
        "list",
        "attacks",
        "--names",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, ("stdout", "stderr")[closed - 1]: write}
    done = subprocess.run(command, **pipes, check=False)
    os.close(write)
    assert done.returncode == 0 and not done.stderr
    assert closed == 1 or b"fgsm" in done.stdout
    shut = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}>&-', "sh", *command], capture_output=True, check=False
    )
    assert shut.returncode == 0 and not shut.stderr

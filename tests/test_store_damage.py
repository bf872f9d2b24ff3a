"""What interrupts or damages a stored file is told, and loses nothing that was whole."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from planted_artifacts import INFO, Builder, facts, leftovers
from safetensors.torch import save

from robustbench_gan.base.errors import UsageError
from robustbench_gan.training import store as store_module
from robustbench_gan.training.store import Store, read_artifact, recipe_key, write_atomically


def whole(tmp_path):
    store = Store(tmp_path / "whole")
    store.fetch("net", {}, Builder())
    return store, store.path(recipe_key("net", {}))


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 40, 0.5, 0.99])
def test_a_truncated_file_is_a_usage_error_that_names_it(tmp_path, keep):
    store, path = whole(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    build = Builder()
    with pytest.raises(UsageError, match=rf"cannot read .*{path.name}.*Delete the file"):
        Store(store.root).fetch("net", {}, build)
    assert build.calls == 0


@pytest.mark.parametrize("data", [b"garbage " * 40, b"\xff" * 64, b"\x00" * 64, b"PK\x03\x04" + b"0" * 60])
def test_a_corrupt_file_is_a_usage_error_that_names_it(tmp_path, data):
    store, path = whole(tmp_path)
    path.write_bytes(data)
    with pytest.raises(UsageError, match=path.name):
        Store(store.root).fetch("net", {}, Builder())
    with pytest.raises(UsageError, match="cannot read"):
        read_artifact(tmp_path / "not there.safetensors")
    with pytest.raises(UsageError, match="cannot read"):
        read_artifact(tmp_path)


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_full_disk_is_a_usage_error_and_loses_nothing(tmp_path, monkeypatch, overwrite):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"cannot write .*No space left.*everything finished before is kept"):
        write_atomically(path, b"new", overwrite=overwrite)
    assert path.read_bytes() == b"old" and leftovers(tmp_path) == ["file"]


@pytest.mark.parametrize(("module", "name"), [(os, "fsync"), (os, "link")])
def test_a_full_disk_while_storing_is_a_usage_error_and_leaves_no_part(store, monkeypatch, module, name):
    done = store.fetch("net", {"a": 1}, Builder())
    before = leftovers(store.root)
    with monkeypatch.context() as patched:
        patched.setattr(module, name, full)
        with pytest.raises(UsageError, match="No space left"):
            store.fetch("net", {"a": 2}, Builder())
    assert leftovers(store.root) == before
    assert Store(store.root).fetch("net", {"a": 1}, Builder()).digest == done.digest
    assert facts(store.fetch("net", {"a": 2}, Builder())) == INFO


def test_a_failed_rename_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UsageError, match="cannot write"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and leftovers(tmp_path) == ["file"]


def test_a_directory_that_cannot_be_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"cannot write .*file"):
        Store(tmp_path / "file" / "artifacts").fetch("net", {}, Builder())
    with pytest.raises(UsageError, match="cannot write"):
        write_atomically(tmp_path / "file" / "x", b"new")
    assert (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_directory_is_a_usage_error(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(UsageError, match="Permission denied"):
            write_atomically(tmp_path / "x", b"new")
    finally:
        tmp_path.chmod(0o755)


def test_overwriting_replaces_and_the_first_writer_wins_otherwise(tmp_path):
    path = tmp_path / "deep" / "er" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two", overwrite=False)
    assert path.read_bytes() == b"one"
    write_atomically(path, b"three")
    assert path.read_bytes() == b"three" and leftovers(tmp_path) == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="no umask")
def test_what_is_written_may_be_read_by_whom_the_umask_lets(tmp_path):
    path = tmp_path / "file"
    old = os.umask(0o022)
    try:
        write_atomically(path, b"x")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o644


KILLED = """
import os, sys
from pathlib import Path
import torch
from robustbench_gan.training.store import Store, write_atomically
moment, root = sys.argv[1:]
real = os.fsync
def die(*args, **kwargs):
    os._exit(9)
if moment == "flush":
    os.fsync = die
elif moment == "link":
    os.link = die
else:
    Path.replace = die
if moment == "rename":
    write_atomically(Path(root) / "file", b"new" * 100000)
else:
    Store(Path(root)).fetch("net", {}, lambda: ({"w": torch.ones(100000)}, {}))
"""


@pytest.mark.parametrize("moment", ["flush", "link", "rename"])
def test_a_kill_in_the_middle_leaves_the_old_file_or_none_never_a_part(tmp_path, moment):
    (tmp_path / "file").write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", KILLED, moment, str(tmp_path)], check=False)
    assert done.returncode == 9
    assert (tmp_path / "file").read_bytes() == b"old"
    store = Store(tmp_path)
    assert list(store) == [] and not store.has("net", {})
    assert facts(store.fetch("net", {}, Builder())) == INFO  # the next run is not in its way
    assert len(list(store)) == 1


def edited(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1 and len(old) == len(new)
    return data.replace(old, new)


def test_a_stored_file_is_compared_with_what_was_stored(tmp_path):
    store, path = whole(tmp_path)
    data = path.read_bytes()
    third = struct.pack("<f", 3.0)  # the one scalar
    for old, new in (
        (third, struct.pack("<f", -3.0)),
        (b"0.30000000000000004", b"0.90000000000000004"),  # a fact, which results repeat
    ):
        path.write_bytes(edited(data, old, new))
        with pytest.raises(UsageError, match=f"{path.name} does not hold what was stored.*Delete the file"):
            Store(store.root).fetch("net", {}, Builder())
    path.write_bytes(data)
    assert facts(Store(store.root).fetch("net", {}, Builder())) == INFO
    other = store.path(recipe_key("net", {"a": 1}))
    other.write_bytes(data)  # weights under the name of another recipe
    with pytest.raises(UsageError, match=f"{other.name} holds the weights of another recipe"):
        Store(store.root).fetch("net", {"a": 1}, Builder())


def test_a_file_stored_before_there_were_hashes_is_taken(tmp_path):
    store, path = whole(tmp_path)
    header = store_module.read_header(path)
    artifact = read_artifact(path)
    del header[store_module.CONTENT]
    path.write_bytes(save({n: t.clone() for n, t in artifact.tensors.items()}, metadata=header))
    assert Store(store.root).fetch("net", {}, Builder()).digest == artifact.digest

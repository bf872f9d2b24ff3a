from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from robustbench_gan.base import files
from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import cache_dir, slug
from robustbench_gan.training import store as store_module
from robustbench_gan.training.store import (
    Store,
    packed,
    read_artifact,
    recipe_key,
    write_atomically,
    zoo_dir,
)

TENSORS = {
    "w": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 7,
    "steps": torch.tensor([2**62, -1]),
    "flags": torch.tensor([True, False]),
    "half": torch.tensor([0.5], dtype=torch.float16),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
}
INFO = {"accuracy": 0.1 + 0.2, "seconds": 1.5, "note": "é", "list": [1, None, True]}


def facts(artifact):
    """What `build` said; the seconds that the store adds left out."""
    return {k: v for k, v in artifact.info.items() if k != "build_seconds"}


class Builder:
    def __init__(self, tensors=TENSORS, info=INFO):
        self.tensors, self.info, self.calls = tensors, info, 0

    def __call__(self):
        self.calls += 1
        return self.tensors, self.info


def leftovers(root: Path) -> list[str]:
    return sorted(p.name for p in root.rglob("*") if p.is_file())


def test_fetch_builds_once_in_this_process_and_the_next(store):
    build = Builder()
    assert not store.has("net", {"a": 1})
    first = store.fetch("net", {"a": 1}, build)
    assert store.fetch("net", {"a": 1}, build) is first
    assert store.has("net", {"a": 1})
    later = Store(store.root).fetch("net", {"a": 1}, build)
    assert build.calls == 1
    assert (later.key, later.digest) == (first.key, first.digest)
    store.fetch("net", {"a": 2}, build)
    assert build.calls == 2


def test_tensors_and_info_come_back_as_they_were(store):
    store.fetch("net", {}, Builder())
    back = Store(store.root).fetch("net", {}, Builder({}, {}))
    assert facts(back) == INFO and back.info["build_seconds"] >= 0
    assert set(back.tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert back.tensors[name].dtype == tensor.dtype and torch.equal(back.tensors[name], tensor)


def test_views_shared_weights_and_graphs_can_be_stored(store):
    base = torch.arange(12.0).reshape(3, 4).requires_grad_()
    tensors = {"t": base.t(), "slice": base[1:, 1:], "tied": base, "again": base}
    back = store.fetch("net", {}, Builder(tensors, {})).tensors
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_the_digest_is_that_of_the_weights_alone(store):
    one = store.fetch("net", {"a": 1}, Builder())
    assert store.fetch("net", {"a": 2}, Builder(info={"seconds": 9})).digest == one.digest
    seen = {one.digest}
    for at, changed in enumerate(
        [
            {**TENSORS, "w": TENSORS["w"] + 1e-7},
            {**TENSORS, "w": TENSORS["w"].reshape(3, 2)},
            {**TENSORS, "half": TENSORS["half"].bfloat16()},
            {**TENSORS, "more": torch.ones(1)},
            {("v" if name == "w" else name): t for name, t in TENSORS.items()},
        ]
    ):
        seen.add(store.fetch("net", {"b": at}, Builder(changed)).digest)
    assert len(seen) == 6


def test_the_first_writer_wins(store):
    def slow_build():
        Store(store.root).fetch("net", {}, Builder({"w": torch.zeros(1)}, {"who": "first"}))
        return {"w": torch.ones(1)}, {"who": "second"}

    got = store.fetch("net", {}, slow_build)
    assert facts(got) == {"who": "first"} and got.tensors["w"].item() == 0
    assert len(leftovers(store.root)) == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failed_build_leaves_nothing_and_can_be_tried_again(store, error):
    def fail():
        raise error

    with pytest.raises(error):
        store.fetch("net", {}, fail)
    assert (
        not store.has("net", {}) and not store.used and (not store.root.exists() or not leftovers(store.root))
    )
    assert facts(store.fetch("net", {}, Builder())) == INFO


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
    with pytest.raises(UsageError, match=rf"cannot read weights .*{path.name}.*Delete the file"):
        Store(store.root).fetch("net", {}, build)
    assert build.calls == 0


@pytest.mark.parametrize("data", [b"garbage " * 40, b"\xff" * 64, b"\x00" * 64, b"PK\x03\x04" + b"0" * 60])
def test_a_corrupt_file_is_a_usage_error_that_names_it(tmp_path, data):
    store, path = whole(tmp_path)
    path.write_bytes(data)
    with pytest.raises(UsageError, match=path.name):
        Store(store.root).fetch("net", {}, Builder())
    with pytest.raises(UsageError, match="cannot read weights"):
        read_artifact(tmp_path / "not there.safetensors")
    with pytest.raises(UsageError, match="cannot read weights"):
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


NASTY = [
    "", ".", "..", "...", "/", "//", "a/b", "../../etc/passwd", "\\", "a\\b", ".hidden", "-", "-rf", "~", " ",
    "a b", "\0", "a\nb", "é", "模型", "x" * 500, "." * 500, "a:b=c(d)", "con/../..", "..-..", "-.-",
]  # fmt: skip


@pytest.mark.parametrize("text", NASTY, ids=repr)
def test_a_slug_is_one_visible_file_name(tmp_path, text):
    name = slug(text)
    assert name and set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not name.startswith((".", "-")) and name != ".." and len(name) <= 80
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    path = Store(tmp_path).path(recipe_key(text, {}))
    assert path.resolve().parent == tmp_path.resolve() and not path.name.startswith(".")


RECIPE = {"a": 1, "b": {"c": 0.1, "d": [1, 2]}, "e": "x", "f": True, "g": None}
CHANGED = [
    {**RECIPE, "a": 2},
    {**RECIPE, "a": "1"},
    {**RECIPE, "b": {"c": 0.1 + 1e-15, "d": [1, 2]}},
    {**RECIPE, "b": {"c": 0.1, "d": [2, 1]}},
    {**RECIPE, "b": {"c": 0.1, "d": [1, 2], "more": 0}},
    {**RECIPE, "e": "y"},
    {**RECIPE, "f": False},
    {**RECIPE, "f": 1},
    {**RECIPE, "g": "None"},
    {k: v for k, v in RECIPE.items() if k != "g"},
]


@pytest.mark.parametrize("kind", ["net", "k" * 200])
def test_a_key_depends_on_every_value_of_the_recipe_and_on_the_kind(tmp_path, kind):
    store = Store(tmp_path)
    files = [store.path(recipe_key(kind, r)) for r in [RECIPE, *CHANGED]]
    files += [
        store.path(recipe_key(kind + "/other", RECIPE)),
        store.path(recipe_key(kind + "-other", RECIPE)),
    ]
    assert len(set(files)) == len(files)


def test_a_key_does_not_depend_on_the_order_of_the_recipe():
    assert recipe_key("net", RECIPE) == recipe_key("net", dict(reversed(RECIPE.items())))


def test_listing_and_clearing(store):
    assert list(store) == [] and store.clear() == 0
    for a in range(3):
        store.fetch("net", {"a": a}, Builder())
    assert len(list(store)) == 3 and list(store) == sorted(store)
    assert store.clear() == 3 and list(store) == []


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path))
    assert cache_dir() == tmp_path and Store().root == tmp_path / "artifacts"
    monkeypatch.setenv("RBG_CACHE_DIR", "")
    monkeypatch.setattr(files.platformdirs, "user_cache_dir", lambda name: f"/somewhere/{name}")
    assert cache_dir() == Path("/somewhere/robustbench-gan")


# ---- bundled artifacts


def bundle(tmp_path, kind="net", recipe=RECIPE, tensors=TENSORS, **more) -> Path:
    """A zoo that holds one artifact."""
    zoo = tmp_path / "zoo"
    zoo.mkdir(exist_ok=True)
    path = zoo / Store(tmp_path).path(recipe_key(kind, recipe)).name
    header = {"info": '{"who": "bundled"}', "kind": kind, "recipe": json.dumps(recipe)}
    path.write_bytes(packed(tensors, header, **more))
    pin(path)
    return zoo


def pin(path):
    card = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (path.parent / "index.json").write_text(json.dumps({path.stem: card}))


def test_a_bundled_artifact_is_used_and_nothing_is_built_or_stored(tmp_path):
    store, build = Store(tmp_path / "mine", zoo=bundle(tmp_path)), Builder()
    assert store.has("net", RECIPE) and not Store(tmp_path / "mine", zoo=None).has("net", RECIPE)
    got = store.fetch("net", RECIPE, build)
    assert build.calls == 0 and got.info == {"who": "bundled"} and list(store) == []
    assert got.digest == Store(tmp_path / "other", zoo=None).fetch("net", RECIPE, Builder()).digest


@pytest.mark.parametrize("recipe", CHANGED, ids=repr)
def test_a_bundled_artifact_of_another_recipe_is_not_used(tmp_path, recipe):
    store, build = Store(tmp_path / "mine", zoo=bundle(tmp_path)), Builder()
    assert facts(store.fetch("net", recipe, build)) == INFO and build.calls == 1
    assert facts(store.fetch("other", RECIPE, build)) == INFO and build.calls == 2


def test_the_bundled_one_goes_before_one_in_the_cache_which_stays(tmp_path):
    cached = Store(tmp_path / "mine", zoo=None).fetch("net", RECIPE, Builder())
    zoo = bundle(tmp_path, tensors={**TENSORS, "w": TENSORS["w"] + 1})
    both = Store(tmp_path / "mine", zoo=zoo).fetch("net", RECIPE, Builder())
    assert both.info == {"who": "bundled"} and both.digest != cached.digest
    assert Store(tmp_path / "mine", zoo=None).fetch("net", RECIPE, Builder()).digest == cached.digest


def test_half_precision_is_widened_to_what_was_trained(tmp_path):
    store = Store(tmp_path / "mine", zoo=bundle(tmp_path, half=True))
    got = store.fetch("net", RECIPE, Builder())
    assert {n: t.dtype for n, t in got.tensors.items()} == {n: t.dtype for n, t in TENSORS.items()}
    for name, tensor in TENSORS.items():
        expected = tensor.half().float() if tensor.dtype == torch.float32 else tensor
        assert torch.equal(got.tensors[name], expected)
    widened = {n: t.half().float() if t.dtype == torch.float32 else t for n, t in TENSORS.items()}
    assert got.digest == Store(tmp_path / "x", zoo=None).fetch("net", {}, Builder(widened)).digest


def test_what_half_precision_cannot_hold_is_refused():
    with pytest.raises(UsageError, match="w: a value above 65504"):
        packed({"w": torch.tensor([7e4]), "v": torch.tensor([torch.inf])}, {}, half=True)
    assert (
        len(packed({"w": torch.zeros(1000)}, {}, half=True))
        < 2200
        < len(packed({"w": torch.zeros(1000)}, {}))
    )


def test_a_damaged_bundled_file_is_named(tmp_path):
    zoo = bundle(tmp_path)
    (path,) = zoo.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match=path.name):
        Store(tmp_path / "mine", zoo=zoo).fetch("net", RECIPE, Builder())


def test_a_bundled_file_is_compared_with_the_index(tmp_path):
    """A whole file of other weights under the same recipe: nothing in it says that it is another."""
    zoo = bundle(tmp_path)
    (path,) = zoo.glob("*.safetensors")
    index = zoo / "index.json"
    pinned = index.read_text()
    bundle(tmp_path, tensors={**TENSORS, "w": -TENSORS["w"]})
    build = Builder()
    for text, says in (
        (pinned, "not the file that was bundled"),
        ("{}", "index.json knows nothing of it"),
        ("{", "cannot compare"),
    ):
        index.write_text(text)
        with pytest.raises(UsageError, match=f"{path.name}.*RBG_ZOO=off") as error:
            Store(tmp_path / "mine", zoo=zoo).fetch("net", RECIPE, build)
        assert says in str(error.value)
    index.unlink()
    with pytest.raises(UsageError, match="cannot compare"):
        Store(tmp_path / "mine", zoo=zoo).fetch("net", RECIPE, build)
    assert build.calls == 0


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


def test_a_recipe_comes_back_from_a_header_whatever_its_keys_are(store):
    recipe = {"by number": {10: "a", 2: "b"}, "pair": (1, 2.5), "path": Path("x"), "b": None, "a": "é"}
    store.fetch("net", recipe, Builder())
    assert facts(Store(store.root).fetch("net", recipe, Builder())) == INFO


def test_the_machine_of_a_training_is_kept(store):
    store.fetch("net", {}, Builder())
    header = store_module.read_header(store.path(recipe_key("net", {})))
    made = json.loads(header["hardware"])
    assert made["torch"] == torch.__version__ and int(made["threads"]) >= 1 and "gpu" not in made
    assert made["processor"] and int(made["cores"]) >= 1


def test_the_zoo_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.delenv("RBG_ZOO", raising=False)
    assert zoo_dir() == store_module.ZOO and store_module.ZOO.is_dir() and Store().zoo == store_module.ZOO
    monkeypatch.setenv("RBG_ZOO", str(tmp_path))
    assert zoo_dir() == tmp_path
    monkeypatch.setenv("RBG_ZOO", "off")
    assert zoo_dir() is None and Store().zoo is None

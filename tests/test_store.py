"""The store of artifacts: built once, under a key that holds the whole recipe, as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from planted_artifacts import CHANGED, INFO, RECIPE, TENSORS, Builder, facts, leftovers

from robustbench_gan.base import files
from robustbench_gan.base.files import cache_dir, slug
from robustbench_gan.training import store as store_module
from robustbench_gan.training.store import Store, recipe_key


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

"""Artifacts that the package brings along: when they are used, and that they are the pinned ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from planted_artifacts import CHANGED, INFO, RECIPE, TENSORS, Builder, facts

from robustbench_gan.base.errors import UsageError
from robustbench_gan.training import store as store_module
from robustbench_gan.training.store import Store, packed, recipe_key, zoo_dir


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


def test_the_zoo_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.delenv("RBG_ZOO", raising=False)
    assert zoo_dir() == store_module.ZOO and store_module.ZOO.is_dir() and Store().zoo == store_module.ZOO
    monkeypatch.setenv("RBG_ZOO", str(tmp_path))
    assert zoo_dir() == tmp_path
    monkeypatch.setenv("RBG_ZOO", "off")
    assert zoo_dir() is None and Store().zoo is None

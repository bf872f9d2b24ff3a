"""Bundled weights: small enough, documented, used for their own recipe alone, and noticed when they are stale."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted_plugins import installed  # noqa: F401 - a fixture

from robustbench_gan.base.errors import UsageError
from robustbench_gan.cli import main as rbg
from robustbench_gan.engine.matrix import preset_text, presets
from robustbench_gan.models.defense_gan_2018 import a
from robustbench_gan.models.schedule import schedule_of
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.results.stored import read_result
from robustbench_gan.training.store import ZOO, Store, packed, read_artifact, recipe_key
from robustbench_gan.training.workshop import Workshop

ROOT = Path(__file__).parents[1]
MATRIX = """
datasets = ["grey"]
classifiers = ["quick"]
defenses = ["none"]
attacks = ["fgsm"]
threats = ["white-box", "black-box:model=quick,rounds=2"]
eps = [0.1]
samples = 20
"""


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(ROOT / "tools"))  # where its parts lie
    try:
        yield importlib.import_module("zoo")
    finally:
        sys.path.remove(str(ROOT / "tools"))
        for name in ("zoo", "zoo_adding", "zoo_cards", "zoo_steps"):
            sys.modules.pop(name, None)


@pytest.fixture
def filled(tool, tmp_path, monkeypatch):
    """A store with what a small matrix needs, and a zoo filled from it: (tool, zoo, matrix, store, page)."""
    monkeypatch.setenv("RBG_ZOO", "off")
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "cache"))
    matrix = tmp_path / "m.toml"
    matrix.write_text(MATRIX)
    assert tool.main(["train", str(matrix), "--device", "cpu"]) == 0
    monkeypatch.setattr("zoo_cards.SMALL", 0)  # these are tiny
    zoo, page = tmp_path / "zoo", tmp_path / "zoo.md"
    zoo.mkdir()
    assert tool.main(["add", str(matrix)], zoo, page) == 0
    return tool, zoo, matrix, tmp_path / "cache" / "artifacts", page


def run(tmp_path, out):
    from click.testing import CliRunner

    arguments = ["evaluate", str(tmp_path / "m.toml"), "--device", "cpu", "--out", str(tmp_path / out)]
    done = CliRunner().invoke(rbg, arguments)
    assert done.exit_code == 0, done.output
    return {p.name: read_result(p) for p in (tmp_path / out / "results").rglob("*.json")}


# ---- what is bundled


def test_the_bundled_weights_are_whole_documented_and_small(tool):
    assert not list(tool.faults(ZOO))
    assert (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8") == tool.page(tool.read_index(ZOO))
    assert sum(path.stat().st_size for path in ZOO.iterdir()) <= 40_000_000


def test_the_bundled_weights_are_those_that_the_presets_ask_for(tool):
    """Fails when a default or a code changes and the weights do not: tools/zoo.py says how to make them anew."""
    assert not list(tool.stale(ZOO, dataset="mnist"))


@pytest.mark.slow
def test_so_are_those_for_data_that_do_not_come_along(tool, monkeypatch):
    """Recipes hold a digest of the data, nothing else of them: other images stand in for those that are not here."""
    cards = [c for c in tool.read_index(ZOO).values() if c["part_of"]["dataset"] == "fashion-mnist"]
    (digest,) = {
        card["recipe"]["data"] for card in cards if "data" in card["recipe"]
    }  # marks have it by their keys
    real = Workshop.dataset

    def dataset(self, text):
        assert str(text) == "fashion-mnist"
        stand_in = replace(real(self, "mnist"), name=text)
        vars(stand_in)["digest"] = digest
        return stand_in

    monkeypatch.setattr(Workshop, "dataset", dataset)
    assert not list(tool.stale(ZOO, dataset="fashion-mnist"))
    other = replace(schedule_of(a), epochs=11)
    monkeypatch.setattr(a, "schedule", other, raising=False)
    gone = {key for key, _ in tool.stale(ZOO, dataset="fashion-mnist")}
    assert {cards_key for cards_key in gone if cards_key.startswith("classifier-")}


def test_every_bundled_artifact_is_some_presets(tool):
    assert {name for card in tool.read_index(ZOO).values() for name in card["needed_by"]} <= set(presets())
    for card in tool.read_index(ZOO).values():
        assert card["accuracy_float32"] - card["accuracy"] < 0.001 and card["hardware"] and card["recipe"]
        assert card["precision"] == "float32" or card["images"] >= 1000


# ---- the tool


def test_adding_copies_what_the_matrix_needs_with_its_cards(filled):
    tool, zoo, _, store, page = filled
    index = tool.read_index(zoo)
    assert sorted(card["kind"] for card in index.values()) == ["classifier", "substitute"]
    for key, card in index.items():
        trained, bundled = read_artifact(Store(store).path(key)), read_artifact(zoo / f"{key}.safetensors")
        assert set(trained.tensors) == set(bundled.tensors) and card["digest"] == bundled.digest
        for name, tensor in trained.tensors.items():
            expected = tensor.half().float() if card["precision"] == "float16" else tensor
            assert torch.equal(bundled.tensors[name], expected)
        assert card["training_seconds"] >= 0 and card["hardware"]["torch"] == torch.__version__
        assert 0.3 < card["accuracy"] <= 1
        assert recipe_key(card["kind"], card["recipe"]) == key
        assert f"## {key}" in page.read_text() and card["digest"] in page.read_text()
    assert tool.main(["check"], zoo, page) == 0


def test_a_bundled_artifact_spares_the_training(filled, tmp_path, monkeypatch):
    tool, zoo, _, _, _ = filled
    monkeypatch.setenv("RBG_ZOO", str(zoo))
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "empty"))
    trained = run(tmp_path, "trained")
    served = run(tmp_path, "served")
    assert not list(Store())
    digests = {card["digest"] for card in tool.read_index(zoo).values()}
    assert {d for result in served.values() for d in result.weights.values()} == digests
    assert served.keys() == trained.keys()


def test_a_changed_default_makes_it_and_what_stands_on_it_stale(filled, monkeypatch, capsys):
    import planted_cells

    tool, zoo, matrix, _, page = filled
    assert not list(tool.stale(zoo))
    other = planted_cells.Schedule(epochs=3, batch_size=30, lr=0.05)
    monkeypatch.setattr(planted_cells.quick, "schedule", other)
    assert dict(tool.stale(zoo)) == dict.fromkeys(tool.read_index(zoo), str(matrix))
    assert not list(tool.stale(zoo, dataset="mnist"))
    capsys.readouterr()
    assert tool.main(["check"], zoo, page) == 1
    assert "a default, or the code of what it is or stands on, changed" in capsys.readouterr().out
    assert tool.main(["check", "--prune"], zoo, page) == 0
    assert tool.read_index(zoo) == {} and not list(zoo.glob("*.safetensors"))


def test_what_one_matrix_needs_stays_when_another_does_not(filled, tmp_path):
    tool, zoo, matrix, store, page = filled
    other = tmp_path / "other.toml"
    other.write_text(MATRIX)
    assert tool.main(["add", str(other), "--store", str(store)], zoo, page) == 0
    assert all(card["needed_by"] == [str(matrix), str(other)] for card in tool.read_index(zoo).values())
    matrix.write_text(MATRIX.replace("rounds=2", "rounds=1"))
    assert tool.main(["check"], zoo, page) == 1
    assert tool.main(["check", "--prune"], zoo, page) == 0
    needed = {card["kind"]: card["needed_by"] for card in tool.read_index(zoo).values()}
    assert needed == {"classifier": [str(matrix), str(other)], "substitute": [str(other)]}


@pytest.mark.usefixtures("filled")
def test_what_half_precision_cannot_hold_is_kept_in_full(tmp_path):
    cards = importlib.import_module("zoo_cards")
    path = tmp_path / "large.safetensors"
    path.write_bytes(packed({"w": torch.tensor([1e5, 0.1])}, {"kind": "net"}))
    path.write_bytes(cards.repacked(path, half=True))
    assert torch.equal(read_artifact(path).tensors["w"], torch.tensor([1e5, 0.1]))


def test_what_no_matrix_needs_any_more_is_stale(filled):
    tool, zoo, matrix, _, _ = filled
    matrix.write_text(MATRIX.replace("rounds=2", "rounds=1"))
    ((key, _),) = tool.stale(zoo)
    assert tool.read_index(zoo)[key]["kind"] == "substitute"


def test_adding_what_was_never_trained_names_it_and_adds_the_rest(filled, capsys):
    tool, zoo, matrix, store, page = filled
    before = set(tool.read_index(zoo))
    matrix.write_text(MATRIX.replace("rounds=2", "rounds=1"))
    assert tool.main(["add", str(matrix), "--store", str(store)], zoo, page) == 1
    assert "not stored: substitute-" in capsys.readouterr().out and set(tool.read_index(zoo)) == before


def test_every_damage_is_noticed(filled):
    tool, zoo, _, _, page = filled
    classifier, _ = sorted(tool.read_index(zoo))
    path = zoo / f"{classifier}.safetensors"
    whole = path.read_bytes()
    header = tool.read_header(path)
    tensors = {n: t + 1 for n, t in read_artifact(path).tensors.items()}

    def complaints():
        return [f"{key}: {said}" for key, said in tool.faults(zoo)]

    assert complaints() == []
    path.write_bytes(packed(tensors, header))
    assert complaints() == [f"{classifier}: its weights are not those that its card was made for"]
    path.write_bytes(packed(read_artifact(path).tensors, {**header, "recipe": '{"other": 1}'}))
    assert f"{classifier}: its recipe has another key" in complaints()
    path.write_bytes(whole)
    path.write_bytes(packed(read_artifact(path).tensors, {**header, "info": "{}"}))
    assert complaints() == [f"{classifier}: its file is not the one that its card was made for"]
    path.unlink()
    assert complaints() == [f"{classifier}: has a card but no file"]
    path.write_bytes(whole)
    (zoo / "stranger-0.safetensors").write_bytes(whole)
    assert complaints() == ["stranger-0: has a file but no card"]
    (zoo / "stranger-0.safetensors").unlink()
    page.write_text("old")
    assert tool.main(["check"], zoo, page) == 1


def test_a_zoo_that_is_too_large_is_noticed(filled, monkeypatch):
    tool, zoo, _, _, _ = filled
    monkeypatch.setattr(tool, "LIMIT", 100)
    assert [key for key, _ in tool.faults(zoo)] == ["the zoo"]


def test_half_precision_is_refused_where_it_costs(filled, tmp_path, monkeypatch):
    tool, _, matrix, store, _ = filled
    monkeypatch.setattr("zoo_adding.COST", -1.0)  # nothing is cheap enough
    other = tmp_path / "other"
    other.mkdir()
    assert tool.main(["add", str(matrix), "--store", str(store)], other, tmp_path / "other.md") == 0
    for key, card in tool.read_index(other).items():
        assert card["precision"] == "float32" and card["accuracy"] == card["accuracy_float32"]
        assert card["digest"] == read_artifact(Store(store).path(key)).digest


def test_listing_names_every_artifact(filled, capsys):
    tool, zoo, _, _, page = filled
    capsys.readouterr()
    assert tool.main(["list"], zoo, page) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(tool.read_index(zoo))


def test_the_keys_of_the_quick_preset_are_known_without_training(tool, tmp_path):
    peek = tool.Peek(tmp_path / "none", zoo=None)
    steps = [step.kind for step, _ in tool.walk(tool.matrix_of("quick"), peek)]
    assert set(steps) >= {"classifier", "defense", "substitute"}
    assert list(peek.asked.values()) == ["classifier"]  # the rest stands on it, and it is not there
    assert not (tmp_path / "none").exists() and '"small-cnn"' in preset_text("quick")


def test_a_small_artifact_keeps_full_precision(filled, monkeypatch):
    cards, store = importlib.import_module("zoo_cards"), filled[3]
    path = next(iter(Store(store)))
    halved = cards.repacked(path, half=True)
    monkeypatch.setattr("zoo_cards.SMALL", path.stat().st_size + 1)
    assert len(cards.repacked(path, half=True)) > len(halved)


def test_a_matrix_is_read_on_some_of_its_data_sets(tool):
    assert tool.matrix_of("standard").datasets == [Spec("mnist"), Spec("fashion-mnist")]
    assert tool.matrix_of("standard", ["mnist"]).datasets == [Spec("mnist")]


def test_what_cannot_be_trained_is_said_and_leaves_the_rest(filled, tmp_path, capsys):
    tool, _, matrix, _, _ = filled
    matrix.write_text(MATRIX.replace('"none"', '"failstofit", "none"'))
    assert tool.main(["train", str(matrix), "--device", "cpu"]) == 1
    said = capsys.readouterr().out
    assert "planted: no convergence" in said and said.count(" s\n") == said.count("\n") - 2


def test_an_unknown_matrix_is_a_usage_error(tool):
    with pytest.raises(UsageError, match="cannot read"):
        tool.matrix_of("nothing.toml")


def test_the_index_is_json_of_cards():
    index = json.loads((ZOO / "index.json").read_text(encoding="utf-8"))
    assert all(set(card) >= {"recipe", "digest", "metric", "accuracy"} for card in index.values())

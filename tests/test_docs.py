"""The code in the documents runs, and the generator of the others is deterministic and notices what is stale."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from planted import Linear, images, plant, seeds, separable
from planted_plugins import cell, flags, installed, workshop  # noqa: F401 - a fixture

from robustbench_gan.cli.installed import catalogue
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.record import Cell, Outcomes, Result
from robustbench_gan.results.stored import sealed
from robustbench_gan.training.store import Store

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BEGIN, END = "<!-- table: begin (tools/generate_docs.py) -->", "<!-- table: end -->"
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def generator():
    sys.path.insert(0, str(ROOT / "tools"))  # where its parts lie
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "tools" / "generate_docs.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "tools"))
    return module


@pytest.fixture
def example(plugin_path):
    """The project of docs/plugins.md, installed as pip would leave it."""
    files = dict(FILE.findall((ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")))
    project = tomllib.loads(files.pop("pyproject.toml"))["project"]
    assert set(files) == {f"rbg_example/{name}.py" for name in ("blur", "normalised", "principal")}
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    plant(plugin_path, project["name"], "\n".join(lines), files, project["version"])
    importlib.invalidate_caches()
    return project


def test_the_plugins_of_the_guide_are_listed(example):
    for group, name in (("defenses", "blur"), ("defenses", "principal"), ("attacks", "normalised")):
        (found,) = [e for e in catalogue(group) if e["name"] == name]
        assert (found["distribution"], found["version"], found["error"]) == ("rbg-example", "0.1.0", None)
        assert found["summary"] and found["parameters"]


def test_the_tests_of_the_guide_pass(example):
    guide = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(# tests/test_example.py\n.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    theirs: dict[str, object] = {}
    exec(block, theirs)
    theirs["test_the_attack"]()
    theirs["test_the_defenses"]()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_attack_of_the_guide_finds_what_a_linear_model_allows(example, norm):
    x, model, budget = images(20), Linear(classes=2), Budget(norm, 0.1)
    x = 0.25 + x / 2  # no clipping: the optimum is the closed form
    defense = registry.load("defenses", "none")(model)
    view = View.on(Defended(defense), seeds(20))
    goal = Goal.untargeted(model(x).argmax(dim=1))
    made = registry.load("attacks", "normalised")(view, x, goal, budget, seeds(20))
    assert budget.contains(made - x).all()
    assert view.counts.backward.tolist() == [10] * 20
    slope = model.weight[1] - model.weight[0]
    most = 0.1 * (slope.abs().sum() if norm == "linf" else slope.norm())
    gained = goal.margin(defense(made, seeds(20))) - goal.margin(defense(x, seeds(20)))
    torch.testing.assert_close(gained, most.expand(20), rtol=1e-4, atol=1e-4)


def test_the_defense_of_the_guide_is_a_pure_function_of_its_seeds(example):
    kind = registry.load("defenses", "blur")
    assert issubclass(kind, Defense)
    flat = torch.full((4, 1, 6, 6), 0.5)
    assert torch.allclose(kind(Linear(), sigma=0.0).purify(flat, seeds(4)), flat)
    x, blur = images(4), kind(Linear())
    cleaned = blur.purify(x, seeds(4))
    assert torch.equal(cleaned, blur.purify(x, seeds(4)))
    assert not torch.equal(cleaned, blur.purify(x, seeds(4, cell=1)))
    assert torch.equal(cleaned[2:], blur.purify(x[2:], seeds(4)[2:]))


def test_the_trained_defense_of_the_guide_projects_and_is_trained_once(example, tmp_path):
    data, store = separable(48), Store(tmp_path)
    kind = registry.load("defenses", "principal")
    fitted = []
    for components, seed in ((3, 0), (3, 0), (4, 0), (3, 1)):
        fitted.append(kind(Linear(), components=components))
        fitted[-1].fit(data, seed, store)
    keys = [defense.training_keys()["components"] for defense in fitted]
    assert keys[0] == keys[1] and len(set(keys)) == 3 and len(list(store)) == 3
    x = data.test.pixels()
    once = fitted[0].purify(x, seeds(len(x)))
    inside = (once > 0).all() and (once < 1).all()
    assert not torch.allclose(once, x) and (
        not inside or torch.allclose(fitted[0].purify(once, seeds(len(x))), once)
    )
    assert fitted[0].kept.T @ fitted[0].kept == pytest.approx(torch.eye(3), abs=1e-5)
    errors = [(d.purify(x, seeds(len(x))) - x).square().mean() for d in (fitted[0], fitted[2])]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("defense", ["blur", "principal:components=3"])
def test_the_judge_counts_the_plugins_of_the_guide(example, tmp_path, defense):
    result = cell(workshop(tmp_path), defenses=defense, attacks="normalised", eps=0.3)
    assert (result.status, "invalid" in flags(result).values()) == ("ok", False), result.reason
    assert result.accuracy("robust").value < result.accuracy("clean").value


def test_the_plugin_of_the_readme_runs(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(# my_plugin.py.*?)^```$", text, re.MULTILINE | re.DOTALL)
    space = {"__name__": "my_plugin"}
    exec(compile(code, "README.md", "exec"), space)
    (kind,) = [
        v for v in space.values() if isinstance(v, type) and issubclass(v, Defense) and v is not Defense
    ]
    x = images(5)
    cleaned = kind(Linear()).purify(x, seeds(5))
    assert cleaned.shape == x.shape
    assert registry.parameters(kind)


def test_what_is_generated_anywhere_is_what_is_committed():
    """In another process, with other hashes of texts, a wider terminal and no locale."""
    code = (
        "import sys, json, hashlib; sys.path.insert(0, 'tools'); import generate_docs as g;"
        "print(json.dumps({k: hashlib.sha256(v.encode()).hexdigest() for k, v in g.generated().items()}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "2", "COLUMNS": "200", "LANG": "C"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=True
    )
    found = json.loads(done.stdout)
    committed = {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in found}
    assert found == committed and len(found) > 10


def test_a_plugin_that_happens_to_be_installed_is_not_documented(generator, example):
    text = generator.reference()
    assert "### pgd" in text and "### blur" not in text and "### normalised" not in text


def test_check_names_the_stale_document_and_writes_nothing(generator, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    monkeypatch.setattr(generator, "generated", lambda: {"docs/a.md": "new\n", "docs/b.md": "b\n"})
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("old\n")
    (tmp_path / "docs" / "b.md").write_text("b\n")
    assert generator.main(["--check"]) == 1
    out = capsys.readouterr().out
    assert "docs/a.md is stale" in out and "b.md" not in out
    assert (tmp_path / "docs" / "a.md").read_text() == "old\n"
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
    assert (tmp_path / "docs" / "a.md").read_text() == "new\n"


def test_the_page_of_what_is_registered_no_more_is_named_and_deleted(
    generator, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    monkeypatch.setattr(generator, "generated", lambda: {"docs/attacks/new.md": "new\n"})
    (tmp_path / "docs" / "attacks").mkdir(parents=True)
    for name in ("new", "old"):
        (tmp_path / "docs" / "attacks" / f"{name}.md").write_text(f"{name}\n")
    assert generator.main(["--check"]) == 1
    assert "docs/attacks/old.md is of nothing registered" in capsys.readouterr().out
    assert generator.main([]) == 0 and generator.main(["--check"]) == 0
    assert [path.name for path in (tmp_path / "docs" / "attacks").iterdir()] == ["new.md"]


def test_the_table_of_the_readme_is_replaced_and_nothing_else(generator, monkeypatch):
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    monkeypatch.setattr(generator, "overview", lambda tables, labels: ["| new |"])
    once = generator.readme(text, [])
    assert once == f"before\n{BEGIN}\n\n| new |\n\n{END}\nafter\n"
    assert generator.readme(once, []) == once
    with pytest.raises(SystemExit, match="lacks the marks"):
        generator.readme("no marks", [])


def test_statuses_without_their_source_say_so(generator, tmp_path, monkeypatch):
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"expected_statuses\.json is missing"):
        generator.statuses(tmp_path / "expected_statuses.json")


def test_the_schema_knows_every_key_of_a_stored_result_and_infinite_numbers(generator):
    schema = json.loads(generator.schema())
    cell = Cell(
        dataset="mnist", classifier="a", defense="none", attack="pgd", threat="white-box", norm="l2",
        eps=float("inf"), first=0, samples=1,
    )  # fmt: skip
    outcomes = Outcomes(clean=["1"], accepted=["1"], robust=["0"], size=[[0.1]], forward=[1], backward=[1])
    stored = sealed(Result(cell=cell, fingerprint=cell.fingerprint, status="ok", outcomes=outcomes))
    assert set(stored) == set(schema["properties"])
    assert set(stored["cell"]) == set(schema["$defs"]["Cell"]["properties"])
    assert stored["cell"]["eps"] == "Infinity"
    assert stored["cell"]["eps"] in schema["$defs"]["Cell"]["properties"]["eps"]["anyOf"][1]["enum"]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/plugins.md"])
def test_links_between_documents_lead_somewhere(page):
    path = ROOT / page
    targets = LINK.findall(path.read_text(encoding="utf-8"))
    assert [t for t in targets if not (path.parent / t).exists()] == []

"""Records are signed anew where a sample of them comes out the same, and left alone to the byte where one does not."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
from planted_plugins import installed, planned, workshop  # noqa: F401

from robustbench_gan.base.errors import UsageError
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.engine import identity
from robustbench_gan.engine.execute import execute
from robustbench_gan.leaderboard.load import records_below
from robustbench_gan.results.stored import read_result, write_text

TOOLS = Path(__file__).parents[1] / "tools"
NEW = "0123456789abcdef"
ASKED = {
    "defenses": ["none", "noisy"], "attacks": ["fgsm", "noise", "pgd:steps=2"], "threats": ["white-box", "seed-known"],
    "eps": [0.05, 0.1],
}  # fmt: skip


@pytest.fixture
def resign(monkeypatch, tmp_path):
    """The tool, with an empty store and a log of its own: given a directory and options, its exit code and its log."""
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "cache"))
    tool, log = importlib.import_module("resign"), tmp_path / "log.json"

    def run(out, *options):
        code = tool.main(["records", str(out), "nothing moved", *options], log=log)
        return code, json.loads(log.read_text()) if log.exists() else []

    yield run
    for name in ("resign", "resign_records", "resign_zoo", "zoo"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def once(tmp_path_factory, installed):  # noqa: F811
    """Eighteen cells with a number, and six that cannot be run."""
    root = tmp_path_factory.mktemp("run")
    run(root / "out", root / "store")
    return root / "out"


@pytest.fixture
def out(once, tmp_path):
    """A copy of them."""
    return Path(shutil.copytree(once, tmp_path / "out"))


def run(out, store):
    """Run what is missing; the fingerprints of the cells that were run for it."""
    shop, fresh = workshop(store), []
    execute(
        planned(shop, **ASKED), shop, Settings(), out, run_cell=evaluate_cell, on_step=lambda step: None,
        on_result=lambda item, result, stored: None if stored else fresh.append(item.cell.fingerprint),
    )  # fmt: skip
    return fresh


def contents(out):
    return {path: path.read_bytes() for path in records_below(out / "results")}


def test_the_code_of_today_signs_nothing_anew(resign, out):
    before = contents(out)
    assert resign(out) == (0, []) and contents(out) == before


def test_another_engine_signs_everything_anew_once_a_sample_came_out_the_same(
    resign, out, monkeypatch, tmp_path
):
    before = {path: read_result(path) for path in contents(out)}
    (old,) = {one.cell.identity["engine"] for one in before.values()}
    monkeypatch.setattr(identity, "engine_digest", lambda: NEW)
    code, (entry,) = resign(out)
    assert code == 0 and entry["hashes"] == {"engine": {old: NEW}} and entry["changed"] == len(before) == 24
    sampled = [before[out / "results" / path] for path in entry["run_again"]]
    assert len(sampled) == 10 and {str(one.cell.attack).partition(":")[0] for one in sampled} == {
        "fgsm",
        "noise",
        "pgd",
    }
    for path, one in before.items():
        cell = one.cell.model_copy(update={"identity": {**one.cell.identity, "engine": NEW}})
        assert read_result(path) == one.model_copy(update={"cell": cell, "fingerprint": cell.fingerprint})
    assert run(out, tmp_path / "store") == []  # all of it is today's


def test_older_evidence_and_flags_are_made_good_on_the_way(resign, out, monkeypatch):
    first, second = [path for path in contents(out) if read_result(path).outcomes][:2]
    for path, change in (
        (first, {"evidence": None, "checks": ""}),
        (second, {"flags": [], "reason": "", "status": "ok", "checks": "fedcba9876543210"}),
    ):
        path.write_text(write_text(read_result(path).model_copy(update=change)))
    monkeypatch.setattr(identity, "engine_digest", lambda: NEW)
    code, (entry,) = resign(out, "--cells", "100")
    today = read_result(first).checks
    assert code == 0 and entry["hashes"]["checks"] == {"fedcba9876543210": today}
    assert read_result(first).evidence and read_result(second).checks == today


def test_an_outcome_that_differs_changes_nothing(resign, out, monkeypatch, capsys):
    path = next(path for path in contents(out) if read_result(path).outcomes)
    found = read_result(path)
    passes = [found.outcomes.forward[0] + 1, *found.outcomes.forward[1:]]
    edited = found.outcomes.model_copy(update={"forward": passes})
    path.write_text(write_text(found.model_copy(update={"outcomes": edited})))
    before = contents(out)
    monkeypatch.setattr(identity, "engine_digest", lambda: NEW)
    assert resign(out, "--cells", "100") == (1, []) and contents(out) == before
    assert f"{path.name}: DIFFERENT in outcomes.forward.0" in capsys.readouterr().out


def test_other_data_are_no_change_of_code(resign, out):
    path = next(iter(contents(out)))
    found = read_result(path)
    cell = found.cell.model_copy(update={"identity": {**found.cell.identity, "data": NEW}})
    path.write_text(write_text(found.model_copy(update={"cell": cell, "fingerprint": cell.fingerprint})))
    with pytest.raises(UsageError, match=r"differs in data, which is no code"):
        resign(out)

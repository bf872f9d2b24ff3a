"""Folders of one name are told apart; no answer, page or record is overwritten by another's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted_own import ASKED, rbg_on_own_models  # noqa: F401 - fixtures
from planted_plugins import installed, planned, workshop  # noqa: F401

from robustbench_gan.base.errors import UsageError
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.engine.execute import execute
from robustbench_gan.engine.plan import result_path
from robustbench_gan.leaderboard import load_results
from robustbench_gan.nouns.spec import UNDEFENDED
from robustbench_gan.results.stored import read_result, write_text

# ---- folders


def pictures(root, shade):
    """Four classes of ten images of 4x4, of one shade of grey and a class's own brightest pixel."""
    for label in range(4):
        (root / f"class{label}").mkdir(parents=True)
        for n in range(10):
            image = np.full((4, 4), shade + n, dtype=np.uint8)
            image.flat[label] = 255
            Image.fromarray(image).save(root / f"class{label}" / f"{n}.png")


def test_folders_of_one_name_are_told_apart_and_from_what_is_bundled(tmp_path, rbg):
    for folder, shade in (("a", 10), ("b", 90)):
        pictures(tmp_path / folder / "mnist", shade)
    shutil.copytree(tmp_path / "a" / "mnist", tmp_path / "c" / "mnist")
    asked = [*ASKED[2:], "--samples", "8", "--classifier", "quick"]
    specs = [f"folder:path={folder}/mnist,size=4,channels=1" for folder in "abc"]
    done = rbg("evaluate", *asked, *(part for spec in specs for part in ("--dataset", spec)), "--out", "o")
    results = load_results(tmp_path / "o")
    assert all(f"{r.cell.dataset.name} / quick / none" in done.stderr for r in results), done.stderr
    names = [r.cell.dataset.name for r in results]
    assert len(set(names)) == len(names) == 2 and all(name.startswith("mnist@") for name in names)
    alone = []
    for folder in "ab":
        rbg("evaluate", *asked, "--dataset", f"folder:path={folder}/mnist,size=4,channels=1", "--out", folder)
        alone += load_results(tmp_path / folder)
    assert {r.fingerprint: r.outcomes for r in alone} == {r.fingerprint: r.outcomes for r in results}


# ---- nothing is overwritten


def test_another_answer_to_a_question_keeps_the_earlier_one_apart(tmp_path, installed):  # noqa: F811
    shop, out = workshop(tmp_path), tmp_path / "out"
    (item,) = planned(shop, attacks="fgsm")

    def answered(version):
        told, identity = [], {**item.cell.identity, "attack": version}
        asked = type(item)(item.cell.model_copy(update={"identity": identity}), item.threat)
        run = {
            "run_cell": evaluate_cell,
            "on_step": lambda step: None,
            "on_result": lambda *args: None,
            "on_replaced": told.append,
        }
        execute([asked], shop, Settings(), out, **run)
        return told

    path = result_path(out, item)
    place = path.relative_to(out)
    assert answered("1") == [] and answered("1") == []
    first = path.read_bytes()
    assert answered("2") == [out / "replaced" / place] and (out / "replaced" / place).read_bytes() == first
    second = path.read_bytes()
    assert answered("3") == [out / "replaced" / "2" / place]
    assert (out / "replaced" / place).read_bytes() == first
    assert (out / "replaced" / "2" / place).read_bytes() == second
    assert [r.cell.identity["attack"] for r in load_results(out)] == ["3"]
    for kept, version in ((out / "replaced", "1"), (out / "replaced" / "2", "2")):
        assert [r.cell.identity["attack"] for r in load_results(kept)] == [version]


def _with_weights(path, **weights):
    result = read_result(path)
    path.write_text(write_text(result.model_copy(update={"weights": {**result.weights, **weights}})))


def test_what_is_stored_of_a_system_with_other_weights_is_judged_anew(tmp_path, installed):  # noqa: F811
    shop, out = workshop(tmp_path), tmp_path / "out"
    cells = planned(shop, attacks=["fgsm", "noise", "bim"], defenses=["none", "noisy"])
    seen, told = [], []
    run = {"run_cell": evaluate_cell, "on_step": lambda step: None, "on_replaced": told.append,
           "on_result": lambda item, result, stored: seen.append((item.cell.fingerprint, stored))}  # fmt: skip
    none = [c for c in cells if c.cell.defense == UNDEFENDED]
    right = execute(cells, shop, Settings(), out, **run)
    _with_weights(result_path(out, none[0]), classifier="f" * 16)  # as if trained on another processor
    result_path(out, none[1]).unlink()
    with pytest.raises(UsageError, match="differ in: weights of classifier"):
        load_results(out)
    seen.clear()
    again = execute(cells, shop, Settings(), out, **run)
    computed = [key for key, stored in seen if not stored]
    assert sorted(computed) == sorted([none[0].cell.fingerprint, none[1].cell.fingerprint])
    assert sorted(key for key, _ in seen) == sorted(c.cell.fingerprint for c in cells)
    assert [(r.outcomes, r.weights) for r in again] == [(r.outcomes, r.weights) for r in right]
    (kept,) = told
    assert read_result(kept).weights["classifier"] == "f" * 16 and len(load_results(out)) == len(cells)


def test_a_run_says_what_it_replaced(tmp_path, rbg):
    asked = ["evaluate", *ASKED, "--classifier", "fixed", "--attack", "noise", "--out", "o"]
    assert "replaced" not in rbg(*asked).stderr
    (path,) = Path("o/results").rglob("fgsm*.json")
    record = read_result(path)
    cell = record.cell.model_copy(update={"identity": {**record.cell.identity, "attack": "another"}})
    path.write_text(write_text(record.model_copy(update={"cell": cell, "fingerprint": cell.fingerprint})))
    said = rbg(*asked).stderr
    assert "replaced: 1 earlier results" in said and "o/replaced" in said
    assert Path("o/replaced", path.relative_to("o")).exists() and len(load_results(Path("o"))) == 2


def test_a_readme_that_is_no_leaderboard_is_not_overwritten(rbg, tmp_path):
    ask = ["evaluate", *ASKED, "--classifier", "a/model.py:make@one.safetensors", "--out", "."]
    Path("README.md").write_text("# my project\n")
    done = rbg(*ask, code=2)
    assert "README.md was not written by this program" in done.stderr
    assert Path("README.md").read_text() == "# my project\n" and not Path("results").exists()
    Path("README.md").unlink()
    rbg(*ask)
    page = Path("README.md").read_text()
    rbg(*ask)  # its own page is written anew
    assert Path("README.md").read_text() == page
    Path("other.md").write_text("# mine\n")
    rbg("leaderboard", "build", ".", "--out", "other.md", code=2)
    assert Path("other.md").read_text() == "# mine\n"


@pytest.mark.parametrize("given", [["--out", ""], ["--seed", 2**53], ["--seed", -(2**53)]])
def test_what_no_record_can_hold_is_refused_before_the_run(rbg, tmp_path, given):
    ask = ["evaluate", *ASKED, "--classifier", "a/model.py:make@one.safetensors", "--out", "out"]
    done = rbg(*ask, *given, code=2)
    assert (
        str(given[1] or "it is empty") in done.stderr
        and not Path("out").exists()
        and not Path("results").exists()
    )

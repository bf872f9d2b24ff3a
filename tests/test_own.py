"""A thing is what it holds: namesakes are told apart, one thing under two paths is one, nothing is overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from planted_cells import grey
from planted_plugins import installed, planned, workshop  # noqa: F401
from safetensors.torch import save_file

from robustbench_gan.base.errors import UsageError
from robustbench_gan.cell.context import Settings
from robustbench_gan.cli import main
from robustbench_gan.data.dataset import HOLDOUT
from robustbench_gan.engine.plan import execute, result_path
from robustbench_gan.leaderboard import load_results
from robustbench_gan.nouns.user_files import FileReference, user_digest
from robustbench_gan.results.stored import read_result, write_text

FACTORY = """
from torch import nn

class Pixels(nn.Flatten):
    def forward(self, x):
        return super().forward(x) - {less}

def make(shape, classes):
    return nn.Sequential(Pixels(), nn.Linear(16, classes, bias=False))
"""
ASKED = ["--dataset", "grey", "--defense", "none", "--attack", "fgsm", "--threat", "white-box", "--eps", "0.1",
         "--samples", "40", "--judge-seeds", "1", "--device", "cpu"]  # fmt: skip


@pytest.fixture
def rbg(tmp_path, monkeypatch):
    """Call `rbg` in a directory with two model files of one name, a/model.py and b/model.py, and two weights."""
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for folder, less in (("a", 0), ("b", 0.5)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.py").write_text(FACTORY.format(less=less))
    for name in ("one", "two"):
        save_file({"1.weight": WEIGHTS[name]}, tmp_path / f"{name}.safetensors")

    def call(*arguments, code=0):
        done = CliRunner().invoke(main, [str(a) for a in arguments])
        assert done.exit_code == code, (done.output, done.exception)
        return done

    return call


def _weights(seed):
    return torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))


WEIGHTS = {"one": _weights(3), "two": _weights(4)}


def expected(weight, less=0.0):
    """Clean and, after the one step of FGSM in linf, robust accuracy of the linear model, in plain torch."""
    split = grey().test
    x = (split.images[HOLDOUT : HOLDOUT + 40].double() / 255).requires_grad_()
    y = split.labels[HOLDOUT : HOLDOUT + 40]

    def logits(at):
        return (at - less).flatten(1) @ weight.double().T

    (slope,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits(x), y, reduction="sum"), x)
    moved = (x + 0.1 * slope.sign()).clamp(0, 1)
    clean = logits(x).argmax(1) == y
    robust = clean & (logits(moved).argmax(1) == y)
    return clean.double().mean().item(), robust.double().mean().item()


def found(out):
    """Clean and robust accuracy by the classifier's name in each record."""
    return {
        r.cell.classifier: (r.accuracy("clean").value, r.accuracy("robust").value)
        for r in load_results(Path(out))
    }


# ---- namesakes


def test_two_files_of_one_name_give_the_two_right_rows(rbg):
    done = rbg("evaluate", *ASKED, "--classifier", "a/model.py:make", "--classifier", "b/model.py:make",
               "--weights", "one.safetensors", "--out", "o")  # fmt: skip
    rows = found("o")
    assert sorted(rows.values()) == sorted([expected(WEIGHTS["one"]), expected(WEIGHTS["one"], less=0.5)])
    assert expected(WEIGHTS["one"]) != expected(WEIGHTS["one"], less=0.5)
    page = Path("o/README.md").read_text()
    for name in rows:
        assert name.startswith("model.py:make@") and name in page and name in done.stdout
        assert f"{name} is " in done.stderr  # where it lies, for whoever runs it, and in no record
    assert not any("a/model.py" in path.read_text() for path in Path("o").rglob("*.json"))


def test_two_weights_of_one_file_are_two_rows_in_one_run_and_in_two(rbg):
    right = sorted([expected(WEIGHTS["one"]), expected(WEIGHTS["two"])])
    both = ["--classifier", "a/model.py:make"] * 2
    rbg(
        "evaluate",
        *ASKED,
        *both,
        "--weights",
        "one.safetensors",
        "--weights",
        "two.safetensors",
        "--out",
        "o",
    )
    assert sorted(found("o").values()) == right
    for name in ("one", "two", "one"):
        written = f"a/model.py:make@{name}.safetensors"
        rbg("evaluate", *ASKED, "--classifier", written, "--out", "p")
    assert found("p") == found("o") and not Path("p/replaced").exists()


def test_each_block_of_a_matrix_may_have_its_own(rbg):
    Path("m.toml").write_text(
        'datasets = ["grey"]\ndefenses = ["none"]\nattacks = ["fgsm"]\neps = [0.1]\nsamples = 40\n'
        '[[block]]\nclassifiers = ["a/model.py:make@one.safetensors"]\n'
        '[[block]]\nclassifiers = ["b/model.py:make@two.safetensors", "a/model.py:make@one.safetensors"]\n'
    )
    rbg("evaluate", "m.toml", "--device", "cpu", "--out", "o")
    right = [expected(WEIGHTS["one"]), expected(WEIGHTS["two"], less=0.5)]
    assert sorted(found("o").values()) == sorted(right)


def test_one_thing_by_two_paths_is_one(rbg, tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "model.py").symlink_to(tmp_path / "a" / "model.py")
    (tmp_path / "other.safetensors").symlink_to(tmp_path / "one.safetensors")
    linked = f"{tmp_path}/c/model.py:make@other.safetensors"
    done = rbg("evaluate", *ASKED, "--classifier", "a/model.py:make@one.safetensors", "--classifier", linked,
               "--out", "o")  # fmt: skip
    assert list(found("o").values()) == [expected(WEIGHTS["one"])]
    assert "and so is" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--classifier", "a/model.py:make", "--weights", "one.safetensors", "--weights", "two.safetensors"],
         "--weights is given 2 times for 1 times"),
        (["--classifier", "a/model.py:make@one.safetensors", "--weights", "two.safetensors"],
         "a classifier given as a file that names none itself"),
        (["--classifier", "a/model.py:make"], "needs --weights"),
        (["--classifier", "a/model.py", "--weights", "one.safetensors"], "add the function in it"),
        (["--classifier", "a/model.py:make@none.safetensors"], "cannot read none.safetensors"),
        (["--classifier", "a/model.py:not a name@one.safetensors"], "cannot read --classifier"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_given_to_the_files_are_refused_in_a_line(rbg, arguments, says):
    done = rbg("evaluate", *ASKED, *arguments, code=2)
    assert says in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "reads",
    [
        "(HERE / 'settings.json').read_text()",
        "(HERE / 'more' / 'net.json').read_text()",
        "open(os.path.join(os.path.dirname(__file__), 'more', 'net.json')).read()",
        "Path(__file__).with_suffix('.yaml').read_text()",
        "[each.read_text() for each in HERE.glob('*.json')]",
        "Path(__file__).with_name('set' + f'{1}'[:0] + 'tings.json').read_text()",
        "importlib.import_module('late')",
        "importlib.import_module('pack.inner')",
    ],
)
def test_what_a_file_reads_beside_itself_tells_it_from_its_copy(tmp_path, reads):
    files = ("settings.json", "more/net.json", "model.yaml", "late.py", "pack/inner.py", "unused.txt")
    digests = {}
    for changed in ("", *files):
        folder = tmp_path / f"with {changed.replace('/', ' ')} changed"
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("K = 2" if name == changed else "K = 1")
        (folder / "model.py").write_text(
            f"import importlib, os\nfrom pathlib import Path\nHERE = Path(__file__).parent\nX = {reads}\n"
        )
        digests[changed] = user_digest(None, f"{folder / 'model.py'}:make")
    different = [name for name in files if digests[name] != digests[""]]
    (read,) = different  # and nothing that it does not
    assert read.rpartition("/")[2].partition(".")[0] in reads or read.endswith((".yaml", ".json"))


def test_what_is_read_under_a_name_put_together_is_part_of_it_or_refused(rbg):
    for folder, less in (("a", 0), ("b", 0.5)):
        for name in ("less-1.txt", "less-1"):
            Path(folder, name).write_text(str(less))
        Path(folder, "model.py").write_text(
            "from pathlib import Path\n" + FACTORY.format(less="LESS")
            + "\nLESS, ONE = 0, 1\ndef put(name):\n    global LESS\n    LESS = "
            "float(Path(__file__).with_name(name).read_text())\n    return make((), 3)\n"
            "def ending(): return put(f'less-{ONE}.txt')\ndef bare(): return put(f'less-{ONE}')\n"
        )  # fmt: skip
    both = [arg for f in ("a", "b") for arg in ("--classifier", f"{f}/model.py:ending")]
    rbg("evaluate", *ASKED, "--weights", "one.safetensors", *both, "--out", "out")
    right = [expected(WEIGHTS["one"], less) for less in (0, 0.5)]
    assert sorted(found("out").values()) == [(pytest.approx(c), pytest.approx(r)) for c, r in sorted(right)]
    for folder in ("a", "b"):
        done = rbg("evaluate", *ASKED, "--weights", "one.safetensors", "--classifier", f"{folder}/model.py:bare",
                   "--out", "out", code=2)  # fmt: skip
        assert f"{folder}/less-1 beside it" in done.stderr and "FILES = ['less-1']" in done.stderr


def test_a_reference_is_read_as_it_is_written():
    for text in ("a/b.py:make", "a.py:odd/b@c.py:make@w@1.safetensors", "b.py:f@x.py:y"):
        assert str(FileReference.parse(text)) == text
    assert FileReference.parse("a.py:odd/b@c.py:make@w@1.safetensors").path == Path("a.py:odd/b@c.py")
    with pytest.raises(UsageError, match="cannot read"):
        FileReference.parse("a.py:")


def test_a_file_that_changes_while_its_run_goes_on_is_refused(tmp_path, rbg):
    shop = workshop(tmp_path)
    (item,) = planned(shop, classifiers="a/model.py:make@one.safetensors", attacks="fgsm")
    save_file({"1.weight": WEIGHTS["two"]}, "one.safetensors")
    assert shop.classifier(item.cell.dataset, item.cell.classifier)[0][1].weight.equal(WEIGHTS["one"])
    shop.memory.clear()  # as in a process of its own
    with pytest.raises(UsageError, match="has changed since the run began"):
        shop.classifier(item.cell.dataset, item.cell.classifier)


def test_what_stands_on_a_file_is_trained_around_it(rbg):
    done = rbg("train", "none", "--dataset", "grey", "--classifier", "b/model.py:make", "--weights",
               "one.safetensors", "--json")  # fmt: skip
    test = grey().test
    at = test.images.double().flatten(1) / 255 - 0.5
    right = (at @ WEIGHTS["one"].double().T).argmax(1) == test.labels
    assert json.loads(done.stdout)[0]["test_accuracy"] == right.double().mean().item()
    assert "brings its own weights" in rbg("train", "b/model.py:make", "--dataset", "grey", code=2).stderr
    refused = rbg("train", "quick", "--dataset", "grey", "--weights", "one.safetensors", code=2).stderr
    assert "a classifier given as a file" in refused


def test_a_file_that_a_registered_models_parameter_names_is_part_of_it(rbg):
    """Of the same path other weights: the question is answered anew, by weights that are nobody's from before."""
    asked = [*ASKED, "--classifier", "read:path=weights.txt", "--out", "o"]
    for name in ("one", "two"):
        Path("weights.txt").write_text("\n".join(map(repr, WEIGHTS[name].flatten().tolist())))
        said = rbg("evaluate", *asked).stderr
        assert list(found("o").values()) == [expected(WEIGHTS[name], less=0.5)]
        assert ("replaced: 1 earlier results" in said) == (name == "two")
    assert list(found("o/replaced").values()) == [expected(WEIGHTS["one"], less=0.5)]


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
    assert all(f"{r.cell.dataset.partition(':')[0]} / quick / none" in done.stderr for r in results), (
        done.stderr
    )
    names = [r.cell.dataset.partition(":")[0] for r in results]
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
        run = {"on_step": lambda step: None, "on_result": lambda *args: None, "on_replaced": told.append}
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
    run = {"on_step": lambda step: None, "on_replaced": told.append,
           "on_result": lambda item, result, stored: seen.append((item.cell.fingerprint, stored))}  # fmt: skip
    none = [c for c in cells if c.cell.defense == "none"]
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

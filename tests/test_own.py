"""A thing is what it holds: namesakes are told apart, and one thing under two paths is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planted_cells import grey
from planted_own import ASKED, FACTORY, WEIGHTS, expected, found, rbg_on_own_models  # noqa: F401 - fixtures
from planted_plugins import installed, planned, workshop  # noqa: F401
from safetensors.torch import save_file

from robustbench_gan.base.errors import UsageError
from robustbench_gan.nouns.spec import FileReference
from robustbench_gan.nouns.user_files import user_digest


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
        digests[changed] = user_digest(FileReference(folder / "model.py", "make"))
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

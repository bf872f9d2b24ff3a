"""The command line with a classifier of one's own."""

from __future__ import annotations

import pytest
from called_cli import SMALL, rbg_in_an_empty_directory  # noqa: F401 - fixtures
from planted_plugins import installed  # noqa: F401

from robustbench_gan.leaderboard import load_results
from robustbench_gan.nouns.spec import FileReference
from robustbench_gan.nouns.user_files import user_digest

OWN = "import torch\ndef make(shape, classes):\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, classes))\n"


@pytest.fixture
def own(tmp_path, rbg):
    from safetensors.torch import save_file

    here = tmp_path / "here"
    (here / "mine.py").write_text(OWN)
    import torch

    save_file({"1.weight": torch.eye(3, 16), "1.bias": torch.zeros(3)}, here / "good.safetensors")
    save_file({"1.weight": torch.eye(3, 15), "1.bias": torch.zeros(3)}, here / "wrong.safetensors")
    (here / "bad.safetensors").write_bytes(b"no safetensors")
    (here / "raises.py").write_text("raise RuntimeError('planted')\n")
    (here / "number.py").write_text("def make():\n    return 3\n")

    def call(classifier, weights=None):
        options = [a for a in SMALL if a not in ("--classifier", "fixed")]
        result = rbg(
            "evaluate", *options, "--classifier", classifier, *(["--weights", weights] if weights else [])
        )
        return result

    return call


@pytest.mark.parametrize(
    "command", [("evaluate", *SMALL), ("audit", "none", "--dataset", "grey", "--classifier", "fixed")]
)
def test_weights_that_nothing_takes_are_refused(own, rbg, command):
    result = rbg(*command, "--weights", "good.safetensors")
    assert result.exit_code == 2 and "--weights good.safetensors" in result.stderr
    assert "--classifier path/to/file.py:factory" in result.stderr


def test_a_change_beside_the_file_of_a_classifier_of_ones_own_is_judged_anew(own, tmp_path):
    here = tmp_path / "here"
    (here / "shape.py").write_text("SIDE = 4\n")
    (here / "mine.py").write_text("import shape\n" + OWN)
    seen = []
    for text in ("SIDE = 4\n", "SIDE = 4  # the same\n", "# said\nSIDE = 4  # the same\n", "SIDE = 5\n"):
        (here / "shape.py").write_text(text)
        seen.append(user_digest(FileReference(here / "mine.py", "make", here / "good.safetensors")))
    assert seen[1] == seen[2] and len(set(seen)) == 3
    assert user_digest(FileReference.of("mine.py:make@good.safetensors")) == seen[-1]  # however it is written


def test_a_classifier_of_ones_own_is_evaluated(own, tmp_path):
    result = own("mine.py:make", "good.safetensors")
    assert result.exit_code == 0, result.stderr
    (record,) = load_results(tmp_path / "here" / "rbg-results")
    assert record.status == "ok" and str(record.cell.classifier).startswith("mine.py:make@")


@pytest.mark.parametrize(
    ("classifier", "weights", "says"),
    [
        ("nothing.py:make", "good.safetensors", "nothing.py"),
        ("mine.py:made", "good.safetensors", "no function 'made'"),
        ("raises.py:make", "good.safetensors", "RuntimeError: planted"),
        ("number.py:make", "good.safetensors", "int, not a torch.nn.Module"),
        ("mine.py:make", None, "needs --weights"),
        ("mine.py:make", "wrong.safetensors", "does not fit"),
        ("mine.py:make", "bad.safetensors", "cannot read"),
    ],
)
def test_what_is_wrong_with_it_is_said_in_a_line(own, classifier, weights, says):
    result = own(classifier, weights)
    assert result.exit_code == 2, (result.output, result.exception)
    lines = [line for line in result.stderr.splitlines() if line.startswith("rbg: ")]
    assert len(lines) == 1 and says in result.stderr and "Traceback" not in result.stderr

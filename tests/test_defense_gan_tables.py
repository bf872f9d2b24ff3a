"""The shapes of Defense-GAN's Tables 8 and 10 with the generator of preset `standard`: see docs/defense_gan_tables.md.

Samangouei et al. (2018), black-box FGSM 0.3 on MNIST: accuracy rises with the restarts R, and against the iterations L
it rises, peaks and falls under attack. `pytest -m figures`; it took 18 minutes on one thread beside other work.
"""

import math
import subprocess
import sys

import pytest

from robustbench_gan.engine.matrix import preset_text, read_matrix
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.results.stored import read_result

pytestmark = pytest.mark.figures

SAMPLES, LEVEL = 200, 0.05
POINTS = ((100, 1), (100, 10), (25, 10), (1600, 10))  # L and R


def chance(worse, better):
    """The p-value of so many more right answers in `better`, on the same images: a one-sided exact sign test."""
    up = sum(b > a for a, b in zip(worse, better, strict=True))
    changed = sum(b != a for a, b in zip(worse, better, strict=True))
    return sum(math.comb(changed, k) for k in range(up, changed + 1)) / 2**changed


def of_standard(iterations, restarts):
    """The Defense-GAN of preset `standard`, pruned and in bfloat16, with this L and R."""
    matrix = read_matrix(preset_text("standard"), "standard", {})
    (text,) = (text for text in matrix.defenses if text.name == "defense-gan")
    spec = Spec.parse(text)
    changed = {"iterations": iterations, "restarts": restarts, "precision": "bf16", "prune": True}
    return str(Spec(spec.name, tuple({**dict(spec.params), **changed}.items())))


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """By L and R, which images are right clean and which under attack as well, each a list of booleans."""
    out, outcomes = tmp_path_factory.mktemp("tables"), {}
    for point in POINTS:
        subprocess.run(
            [
                sys.executable, "-c", "from robustbench_gan.cli import main; main()",
                "evaluate", "--dataset", "mnist", "--classifier", "a", "--defense", of_standard(*point),
                "--attack", "fgsm", "--threat", "black-box:rounds=6,oracle=undefended", "--eps", "0.3",
                "--samples", str(SAMPLES), "--judge-seeds", "1", "--max-cell-minutes", "60", "--out", str(out / str(point)),
            ],
            check=True,
        )  # fmt: skip
        (record,) = (out / str(point) / "results").rglob("*.json")
        result = read_result(record)
        assert result.outcomes is not None and len(result.outcomes.clean[0]) == SAMPLES
        outcomes[point] = result.outcomes.clean[0], result.outcomes.robust[0]
    return outcomes


def test_accuracy_rises_with_restarts(right):
    for one, ten in zip(right[100, 1], right[100, 10], strict=True):
        assert chance(one, ten) < LEVEL


def test_clean_accuracy_rises_with_iterations(right):
    assert chance(right[25, 10][0], right[100, 10][0]) < LEVEL


def test_accuracy_under_attack_peaks_and_falls_with_iterations(right):
    few, enough, many = (right[steps, 10][1] for steps in (25, 100, 1600))
    assert chance(few, enough) < LEVEL and chance(many, enough) < LEVEL

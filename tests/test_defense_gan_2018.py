"""The preset that repeats the reference code's white-box run on Defense-GAN: what cutting the gradient measures."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
from planted_plugins import flags, installed, judged, workshop  # noqa: F401 - fixtures

from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.engine.layout import lay_out
from robustbench_gan.engine.matrix import preset_text, read_matrix
from robustbench_gan.leaderboard import markdown, tables

NAME = "defense-gan-2018"
SMALL = {"datasets": ["grey"], "classifiers": ["fixed"], "defenses": ["none", "noisy"], "samples": 10}


@pytest.fixture
def results(tmp_path):
    shop = workshop(tmp_path)
    cells = lay_out(read_matrix(preset_text(NAME), NAME, SMALL), shop)
    return [evaluate_cell(item, shop, Settings()) for item in cells]


def of(result):
    return (
        result.cell.attack.name,
        str(result.cell.defense),
        result.cell.threat.get("gradient"),
    )


def test_a_cut_gradient_leaves_the_clean_accuracy_of_everything_and_is_always_suspect(results):
    cut = [r for r in results if of(r)[2] == "cut" and r.status != "not applicable"]
    assert {of(r)[:2] for r in cut} == {
        (a, d) for a in ("fgsm", "rand-fgsm", "cw") for d in ("none", "noisy")
    }
    for result in cut:
        assert result.status == "suspect" and flags(result)["cut-gradient"] == "invalid"
        if (
            of(result)[0] == "fgsm"
        ):  # the others still move: by a random step, or by what rounding leaves of the distance
            assert judged(result).robust == judged(result).clean and set(judged(result).size[0]) == {0.0}
    (undefended,) = [r for r in cut if of(r)[:2] == ("fgsm", "none")]
    assert undefended.accuracy("robust").value == 1.0  # no defense at all, and no attack either


def test_a_connected_gradient_on_the_same_images_leaves_less(results):
    by_attack = defaultdict(dict)
    for result in results:
        attack, defense, gradient = of(result)
        if result.outcomes is not None and result.cell.threat_name == "white-box":
            by_attack[attack, defense][gradient] = result
    for attack, defense in (("fgsm", "none"), ("cw", "none"), ("fgsm", "noisy"), ("cw", "noisy")):
        found = by_attack[attack, defense]
        assert found["auto"].status == "ok"
        assert found["auto"].accuracy("robust").value < found["cut"].accuracy("robust").value
        assert {(r.cell.first, r.cell.samples, r.cell.judge_seeds) for r in found.values()} == {(150, 10, 2)}
        assert len({tuple(sorted(r.weights.items())) for r in found.values()}) == 1
    assert by_attack["bpda", "noisy"]["bpda"].status == "ok"


def test_the_cut_run_neither_ranks_nor_makes_a_headline_incomplete(results):
    page = markdown(results, times=False)
    assert "(cut-gradient)" in page or "cut-gradient" in page
    for table in tables(results):
        for standing in table.standings:
            assert all(status != "suspect" for _, status in standing.missing)
            if standing.headline is not None:
                counted = [r for r in standing.cells.values() if r.counts]
                assert all(r.cell.threat.get("gradient") != "cut" for r in counted)


def test_it_uses_the_generator_and_classifier_of_the_quick_preset():
    quick, own = (read_matrix(preset_text(name), name, {}) for name in ("quick", NAME))
    (generator,) = [d for d in quick.defenses if d.name == "defense-gan"]
    assert generator in own.defenses and own.classifiers == quick.classifiers and own.eps == quick.eps


def test_its_page_is_where_the_preset_says():
    assert "docs/defense_gan_2018.md" in preset_text(NAME)
    assert (Path(__file__).parents[1] / "docs" / "defense_gan_2018.md").exists()

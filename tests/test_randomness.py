"""How much of the robustness is randomness: pairs, worst cases and intervals by hand."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from planted_results import result

from robustbench_gan.leaderboard import markdown
from robustbench_gan.leaderboard.randomness import HEADING, differences, paired
from robustbench_gan.nouns.spec import UNDEFENDED, Spec

FRESH, KNOWN = "white-box:draws=1,gradient=auto,unroll=5", "seed-known:gradient=auto,unroll=5"


def test_the_difference_is_taken_image_by_image_over_the_judge_seeds():
    fresh = result(["1110", "1010"], threat=FRESH)  # means 1, .5, 1, 0
    known = result(["1000", "1010"], threat=KNOWN)  # means 1, 0, .5, 0
    (row,) = differences([known, fresh])
    assert (row.fresh.value, row.known.value, row.difference.value) == (0.625, 0.375, 0.25)
    assert row.difference == paired([0, 0.5, 0.5, 0]) and row.difference.n == 4
    assert (row.defense, row.attack, row.gradient, row.draws) == (UNDEFENDED, Spec("pgd"), "auto", 1)


def test_the_worst_case_of_each_side_is_taken_before_the_difference():
    rows = differences(
        result(robust, threat=threat, attack=attack)
        for attack, threat, robust in [
            ("fgsm", FRESH, "1101"), ("pgd", FRESH, "1011"), ("fgsm", KNOWN, "1100"), ("pgd", KNOWN, "0110"),
        ]
    )  # fmt: skip
    assert [row.attack for row in rows] == [Spec("fgsm"), Spec("pgd"), None]
    assert [row.difference.value for row in rows] == [0.25, 0.25, 0.25]
    assert (rows[2].fresh.value, rows[2].known.value) == (0.5, 0.25)  # 1001 and 0100


def test_the_worst_case_is_over_the_attacks_that_stand_in_both():
    rows = differences(
        [
            result("1111", threat=FRESH),
            result("0111", threat=KNOWN),
            result("0000", threat=FRESH, attack="fgsm"),
        ]
    )
    assert [(row.attack, row.fresh.value, row.known.value) for row in rows] == [(Spec("pgd"), 1.0, 0.75)]


@pytest.mark.parametrize(
    "other",
    [
        {"defense": "magnet"}, {"attack": "fgsm"}, {"eps": 0.2}, {"first": 4}, {"seed": 1}, {"goal": "random"},
        {"threat": "seed-known:gradient=bpda,unroll=5"}, {"threat": "seed-known:gradient=auto,unroll=9"},
        {"threat": "gray-box"}, {"status": "failed", "robust": ""},
        {"status": "suspect"},
    ],
)  # fmt: skip
def test_only_what_differs_in_the_seed_alone_and_counts_is_a_pair(other):
    values = {"robust": "1100", "threat": KNOWN, **other}
    assert differences([result("1110", threat=FRESH), result(values.pop("robust"), **values)]) == []


def test_eot_draws_make_rows_of_their_own_beside_one_known_result():
    many = FRESH.replace("draws=1", "draws=20")
    found = [result("1110", threat=FRESH), result("1100", threat=many), result("1000", threat=KNOWN)]
    assert [(row.draws, row.difference.value) for row in differences(found)] == [(1, 0.5), (20, 0.25)]


def test_controls_have_no_row_but_count_in_the_worst_case_as_in_the_headline():
    def noise(robust, threat):
        return result(robust, threat=threat, attack="noise", more={"control": True})

    pair = [result("1110", threat=FRESH), result("1100", threat=KNOWN)]
    rows = differences([*pair, noise("0111", FRESH), noise("1111", KNOWN)])
    assert [row.attack for row in rows] == [Spec("pgd"), None] and rows[1].fresh.value == 0.5
    assert differences([noise("0111", FRESH), noise("1111", KNOWN)]) == []


def test_a_minimal_attack_has_a_row_for_every_budget_it_was_asked_for():
    sizes = [0.1, 0.2, 0.3, 0.4]
    asked = {"eps": math.inf, "size": sizes, "more": {"budgets": [0.15, 0.35]}}
    rows = differences(
        [result("0000", threat=FRESH, **asked), result("0000", threat=KNOWN, **{**asked, "size": 0.1})]
    )
    assert [(row.eps, row.fresh.value, row.known.value) for row in rows] == [
        (0.15, 0.75, 0.0),
        (0.35, 0.25, 0.0),
    ]


# ---- the interval


def test_the_interval_is_that_of_agresti_and_min_for_yes_and_no():
    # 100 pairs: 20 robust only where the seed is fresh, 5 only where it is known.
    n, up, down = 100, 20, 5
    found = paired([1.0] * up + [-1.0] * down + [0.0] * (n - up - down))
    a, b = up + 0.5, down + 0.5  # half an observation is added to each cell of the 2 x 2 table
    centre = (a - b) / (n + 2)
    half = 1.959964 * math.sqrt((a + b) - (a - b) ** 2 / (n + 2)) / (n + 2)
    assert found.value == 0.15 and found.n == n
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_equal_differences_still_have_an_interval_around_them_within_the_range(value):
    found = paired([value] * 10)
    assert -1 <= found.low <= found.value == value <= found.high <= 1 and found.high - found.low > 0.1


def test_it_covers_the_truth_about_as_often_as_it_says():
    rng, truth, hits = np.random.default_rng(0), 0.1, 0
    for _ in range(1000):
        draws = rng.choice([1.0, 0.5, 0.0, -0.5], p=[0.1, 0.1, 0.7, 0.1], size=100)
        found = paired(draws)
        hits += found.low <= truth <= found.high
    assert 930 <= hits <= 985


def test_swapping_the_sides_turns_the_interval_around():
    one = paired([1, 0.5, 0, 0, -0.5, 1])
    two = paired([-1, -0.5, 0, 0, 0.5, -1])
    assert (two.value, two.low, two.high) == pytest.approx((-one.value, -one.high, -one.low))


# ---- on the page


def test_the_section_stands_where_there_is_a_pair_and_nowhere_else():
    pair = [result("1110", threat=FRESH), result("1100", threat=KNOWN)]
    page = markdown(pair)
    lines = page[page.index(HEADING) :].split("\n## ")[0].splitlines()
    (row,) = [line for line in lines if line.startswith("| none")]
    assert row.startswith("| none | pgd | linf ≤ 0.3 | auto | 1 | 0.750 [") and "| 0.250 [" in row
    assert HEADING not in markdown(pair[:1]) and markdown(pair[::-1]) == page


def test_data_sets_classifiers_and_goals_stand_in_the_rows_where_they_differ():
    found = [
        result("1110", threat=threat, dataset=data, classifier=model)
        for threat in (FRESH, KNOWN)
        for data, model in (("mnist", "a"), ("cifar10", "b"))
    ]
    page = markdown(found)
    lines = [
        line for line in page[page.index(HEADING) :].split("\n## ")[0].splitlines() if line.startswith("|")
    ]
    assert lines[0].startswith("| dataset | classifier | defense |")
    assert [line.split(" | ")[:3] for line in lines[2:]] == [
        ["| cifar10", "b", "none"],
        ["| mnist", "a", "none"],
    ]


def test_neither_of_the_new_files_imports_torch():
    code = "import robustbench_gan.leaderboard.randomness, robustbench_gan.leaderboard.attackers, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

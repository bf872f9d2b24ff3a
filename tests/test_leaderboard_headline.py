"""Accuracies, worst cases and ranks of the leaderboard by hand; who may rank and who may not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from planted_results import MIXED, outcomes, ranking, result

from robustbench_gan.base.errors import UsageError
from robustbench_gan.leaderboard import at_budget, console_table, markdown, rows, tables
from robustbench_gan.nouns.record import Outcomes
from robustbench_gan.nouns.statistics import worst_case

# numbers


def test_a_cell_shows_the_mean_of_its_outcomes_and_wilsons_interval() -> None:
    row = ranking(markdown([result("1100", clean="1110")]))["none"]
    assert row[0] == "1"
    assert row[2].startswith("0.750 [")
    assert row[3] == row[4] == "0.500 [0.150, 0.850]"


def test_the_worst_case_is_taken_per_sample_and_not_over_means() -> None:
    (table,) = tables([result("1100"), result("0110", attack="fgsm")])
    headline = table.standings[0].headline
    assert headline and headline.value == 0.25 and headline.n == 4


def test_the_worst_case_over_several_judge_seeds_is_the_records() -> None:
    one, two = ["1100", "1000"], ["0111", "0110"]
    (table,) = tables([result(one, attack="b"), result(two, attack="a")])
    bits = np.array([[[c == "1" for c in text] for text in attack] for attack in (two, one)])
    headline = table.standings[0].headline
    assert headline and headline.value == pytest.approx(worst_case(bits).mean())


def test_parameters_of_one_threat_model_share_a_table_and_a_worst_case() -> None:
    full = result("1100", threat="white-box:gradient=full")
    bpda = result("0110", threat="white-box:gradient=bpda")
    (table,) = tables([full, bpda])
    assert table.standings[0].headline and table.standings[0].headline.value == 0.25
    assert "pgd, white-box (gradient=bpda)" in markdown([full, bpda])


@pytest.mark.parametrize(
    ("changes", "robust"),
    [
        ({"samples": 5}, "11111"),
        ({"first": 1}, "1111"),
        ({"seed": 1}, "1111"),
        ({"judge_seeds": 2}, ["1111", "1111"]),
        ({"eps": 0.1}, "1111"),
        ({"norm": "l2"}, "1111"),
        ({"goal": "random"}, "1111"),
        ({"threat": "seed-known"}, "1111"),
        ({"classifier": "b"}, "1111"),
        ({"dataset": "cifar10"}, "1111"),
    ],
)
def test_defenses_judged_otherwise_are_never_ranked_together(
    changes: dict[str, Any], robust: str | list[str]
) -> None:
    found = tables([result("1110"), result(robust, defense="magnet", **changes)])
    assert [[str(s.defense) for s in t.standings] for t in found] in (
        [["none"], ["magnet"]],
        [["magnet"], ["none"]],
    )
    assert [s.rank for t in found for s in t.standings] == [1, 1]


def test_tables_on_other_samples_say_that_their_ranks_do_not_compare() -> None:
    page = markdown([result("1110"), result("11101", defense="magnet")])
    assert page.count("their ranks do not compare") == 2
    assert "their ranks do not compare" not in markdown([result("1110"), result("1110", defense="magnet")])


# who ranks


def test_suspect_and_failed_never_rank_nor_enter_the_headline() -> None:
    (table,) = tables(MIXED)
    by_name = {str(s.defense): s for s in table.standings}
    assert [str(s.defense) for s in table.standings] == ["good", "weak", "broken", "crashed"]
    assert [s.rank for s in table.standings] == [1, 2, None, None]
    assert by_name["broken"].controls_only and by_name["broken"].incomplete
    assert by_name["crashed"].headline is None


def test_a_suspect_success_is_not_counted_either() -> None:
    (table,) = tables([result("1111"), result("0000", attack="fgsm", status="suspect")])
    standing = table.standings[0]
    assert standing.headline and standing.headline.value == 1
    assert [(str(c.attack), status) for c, status in standing.missing] == [("fgsm", "suspect")]


def test_only_controls_give_no_rank() -> None:
    (table,) = tables([result("1111", attack="noise", more={"control": True})])
    assert table.standings[0].rank is None and table.standings[0].controls_only
    row = ranking(markdown([result("1111", attack="noise", more={"control": True})]))["none"]
    assert row[0] == "–" and row[3] == "*1.000 [0.510, 1.000] controls only*"


def test_controls_count_in_the_minimum() -> None:
    (table,) = tables([result("1110"), result("0111", attack="noise", more={"control": True})])
    assert table.standings[0].headline and table.standings[0].headline.value == 0.5


@pytest.mark.parametrize("status", ["failed", "not run"])
def test_an_incomplete_headline_is_marked_and_ranks_below_complete_ones(status: str) -> None:
    found = [
        result("1000", defense="complete"),
        result("1000", defense="complete", attack="fgsm"),
        result("1111", defense="partial"),
        result(status=status, defense="partial", attack="fgsm"),
    ]
    page = markdown(found)
    lines = ranking(page)
    assert list(lines) == ["complete", "partial"]
    assert lines["partial"][0] == "2" and lines["partial"][3].endswith(" †")
    assert not lines["complete"][3].endswith("†")
    assert f"† partial: incomplete, the worst case leaves out fgsm ({status})." in page


def test_not_applicable_leaves_a_headline_complete() -> None:
    (table,) = tables([result("1111"), result(status="not applicable", attack="bpda")])
    assert not table.standings[0].incomplete and table.standings[0].rank == 1


def test_an_attack_that_only_others_faced_is_missing() -> None:
    found = [
        result("1111", defense="lazy"),
        result("1000", defense="tried"),
        result("1000", defense="tried", attack="b"),
    ]
    (table,) = tables(found)
    assert [(str(s.defense), s.incomplete) for s in table.standings] == [("tried", False), ("lazy", True)]
    assert ranking(markdown(found))["lazy"][4] == "no result"


def test_the_positive_control_leaves_a_headline_complete() -> None:
    (table,) = tables([result("1111"), result("1111", threat="white-box:gradient=cut", status="suspect")])
    assert not table.standings[0].incomplete


def test_equal_headlines_share_a_rank() -> None:
    found = [result("1100", defense="a"), result("0011", defense="b"), result("1000", defense="c")]
    assert [s.rank for s in tables(found)[0].standings] == [1, 1, 3]


# minimal-norm attacks


def test_at_budget_counts_an_example_only_where_it_fits() -> None:
    found = result("0001", clean="1101", size=[0.1, 0.3 * (1 + 5e-7), 0.2, 0.0], eps=math.inf)
    assert at_budget(found, 0.05).tolist() == [[True, True, False, True]]
    assert at_budget(found, 0.2).tolist() == [[False, True, False, True]]
    assert at_budget(found, 0.3).tolist() == [[False, False, False, True]]
    assert at_budget(found, math.inf).tolist() == [[False, False, False, True]]


def test_at_budget_reads_one_list_of_sizes_a_seed() -> None:
    one = outcomes(["00", "00"])
    both = Outcomes(**(one.model_dump() | {"size": [[0.1, 0.4], [0.4, 0.1]]}))
    found = result(["00", "00"], eps=math.inf, more={"outcomes": both})
    assert at_budget(found, 0.2).tolist() == [[False, True], [True, False]]


def test_at_budget_refuses_what_has_no_outcomes() -> None:
    with pytest.raises(UsageError, match="is failed"):
        at_budget(result(status="failed"), 0.3)


def test_the_overview_sets_threat_models_side_by_side() -> None:
    found = [result("0111", attack="fgsm"), result("0011", attack="bim")]
    found.append(result("1111", threat="black-box"))
    overview = markdown(found).partition("## Worst case over attacks, by threat model")[2].partition("##")[0]
    assert overview.index("black-box") < overview.index("white-box")
    (line,) = [text for text in overview.splitlines() if text.startswith("| none")]
    assert "1.000" in line
    assert "0.500" in line


def test_a_minimal_attack_joins_the_tables_of_finite_budgets() -> None:
    minimal = result("0000", attack="ddn", size=[0.1, 0.1, 0.5, 0.5], eps=math.inf)
    found = [minimal, result("0111"), result("0111", eps=0.6)]
    small, large = tables(found)
    assert (small.setting.eps, large.setting.eps) == (0.3, 0.6)
    assert small.standings[0].headline and small.standings[0].headline.value == 0.5
    assert large.standings[0].headline and large.standings[0].headline.value == 0
    assert "ddn (minimal)" in markdown(found)


def test_a_minimal_attack_alone_stands_at_any_size_with_its_median() -> None:
    minimal = result("0000", attack="ddn", size=[0.1, 0.2, 0.3, 9.0], eps=math.inf)
    page = markdown([minimal])
    assert "linf, any size" in page and "median size 0.25" in page
    assert [t.setting.eps for t in tables([minimal], at=[0.2])] == [0.2]


def test_a_minimal_attack_stands_at_every_radius_it_was_asked_for() -> None:
    minimal = result(
        "0000", attack="ddn", size=[0.1, 0.2, 0.3, 9.0], eps=math.inf, more={"budgets": [0.2, 0.3]}
    )
    found = tables([minimal])
    assert [t.setting.eps for t in found] == [0.2, 0.3]
    assert [t.standings[0].headline.value for t in found if t.standings[0].headline] == [0.5, 0.25]
    assert [row["eps"] for row in rows([minimal])] == ["inf", 0.2, 0.3]
    assert len(console_table([minimal]).rows) == 2

"""The leaderboard: hand-computed numbers, who may rank, and that hostile text stays text."""

from __future__ import annotations

import io
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_records import coherent
from rich.console import Console

from robustbench_gan.base.errors import UsageError
from robustbench_gan.flags.across import across
from robustbench_gan.flags.catalogue import CATALOGUE
from robustbench_gan.leaderboard import (
    at_budget,
    build,
    console_table,
    frame,
    load_results,
    markdown,
    rows,
    tables,
)
from robustbench_gan.leaderboard.labels import escape, radius, short_labels
from robustbench_gan.nouns.record import Cell, Detection, Detector, Outcomes, Result, Seconds
from robustbench_gan.nouns.statistics import Interval, worst_case
from robustbench_gan.results.places import place
from robustbench_gan.results.stored import write_text

PROMISED = (
    *("dataset", "classifier", "defense", "attack", "goal", "threat", "norm", "eps", "n", "judge_seeds"),
    *("clean_accuracy", "clean_ci_low", "clean_ci_high", "robust_accuracy", "ci_low", "ci_high"),
    *("status", "reason", "flags", "craft_seconds_per_image", "defense_seconds_per_image"),
    *("forward_passes_per_image", "backward_passes_per_image", "training_seconds", "estimate_seconds"),
    "fingerprint",
)
ZERO_GRADIENT = CATALOGUE["zero-gradient"].raised("invalid")


def cell(**changes: Any) -> Cell:
    values: dict[str, Any] = {
        "dataset": "mnist",
        "classifier": "a",
        "defense": "none",
        "attack": "pgd",
        "threat": "white-box",
    }
    values |= {"norm": "linf", "eps": 0.3, "first": 0, "samples": 4, "identity": {"engine": "1"}}
    return Cell(**(values | changes))


def outcomes(robust: str | list[str], clean: str | None = None, size: float | list[float] = 0.3) -> Outcomes:
    judged = [robust] if isinstance(robust, str) else robust
    n = len(judged[0])
    all_clean = [clean or "1" * n] * len(judged)
    sizes = [[size] * n] if isinstance(size, float) else [size]
    accepted = ["1" * n] * len(judged)
    return Outcomes(
        clean=all_clean, accepted=accepted, robust=judged, size=sizes, forward=[40] * n, backward=[20] * n
    )


def result(
    robust: str | list[str] = "",
    *,
    status: str = "ok",
    size: float | list[float] = 0.3,
    clean: str | None = None,
    more: dict[str, Any] | None = None,
    **changes: Any,
) -> Result:
    found = outcomes(robust, clean, size) if robust else None
    if found:
        changes |= {"samples": len(found.forward), "judge_seeds": len(found.robust)}
    asked = cell(**changes)
    reason = "" if found else f"because it is {status}"
    values: dict[str, Any] = {
        "cell": asked,
        "fingerprint": asked.fingerprint,
        "status": status,
        "reason": reason,
    }
    values |= {"outcomes": found, "seconds": Seconds(training=9, crafting=2, judging=1)}
    return coherent(Result(**(values | (more or {}))), **(more or {}))


def ranking(page: str, section: int = 0) -> dict[str, list[str]]:
    """The rows of a section's first table by defense, as lists of cells."""
    lines = page.split("\n## ")[section + 1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| rank"))
    found = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [text.strip() for text in line.strip("|").split(" | ")]
        found[cells[1]] = cells
    return found


def store(directory: Path, name: str, *results: Result) -> None:
    for one in results:
        path = directory / "results" / name / place(one.cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(write_text(one))


MIXED = [
    result("1110", defense="good"),
    result("1111", defense="good", attack="noise", more={"control": True}),
    result("1000", defense="weak"),
    result("1111", defense="weak", attack="noise", more={"control": True}),
    result("1111", defense="broken", status="suspect", more={"flags": [ZERO_GRADIENT]}),
    result("1111", defense="broken", attack="noise", more={"control": True}),
    result(status="failed", defense="crashed", more={"reason": "ValueError: a|b"}),
    result(status="failed", defense="crashed", attack="noise", more={"control": True}),
]


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
    assert [[s.defense for s in t.standings] for t in found] in (
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
    by_name = {s.defense: s for s in table.standings}
    assert [s.defense for s in table.standings] == ["good", "weak", "broken", "crashed"]
    assert [s.rank for s in table.standings] == [1, 2, None, None]
    assert by_name["broken"].controls_only and by_name["broken"].incomplete
    assert by_name["crashed"].headline is None


def test_a_suspect_success_is_not_counted_either() -> None:
    (table,) = tables([result("1111"), result("0000", attack="fgsm", status="suspect")])
    standing = table.standings[0]
    assert standing.headline and standing.headline.value == 1
    assert [(c.attack, status) for c, status in standing.missing] == [("fgsm", "suspect")]


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
    assert [(s.defense, s.incomplete) for s in table.standings] == [("tried", False), ("lazy", True)]
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


# detection


def share(value: float) -> Interval:
    return Interval(value=value, low=value / 2, high=(1 + value) / 2, n=4)


def detector(name: str, auc: float) -> Detector:
    tpr = [None, share(0.2), share(0.6)]
    rates = {"tpr": tpr, "fpr": [None, share(0.02), share(0.04)]}
    return Detector(name=name, clean_rejected=share(0.1), attack_rejected=share(0.4), auc=share(auc), **rates)


def detected(*names: str) -> dict[str, Any]:
    each = [detector(name, 0.7) for name in names]
    return {
        "detection": Detection(
            validation=1000, clean=4, positive=3, detectors=each, together=detector("together", 0.9)
        )
    }


def detection_table(page: str) -> list[list[str]]:
    lines = page.partition("**Detection**\n\n")[2].partition("\n\n")[0].splitlines()
    return [[text.strip() for text in line.strip("|").split(" | ")] for line in lines]


def test_a_setting_has_a_row_of_detection_for_each_defense_with_detectors_and_attack() -> None:
    found = [
        result("1110", defense="magnet", more=detected("l1", "l2")),
        result("1111", defense="magnet", attack="fgsm", more=detected("l1", "l2")),
        result("1110"),
    ]
    page = markdown(found)
    header, _, *lines = detection_table(page)
    assert [line[:2] for line in lines] == [["magnet", "fgsm"], ["magnet", "pgd"]]
    row = dict(zip(header, lines[0], strict=True))
    assert row["AUC"] == "0.900 [0.450, 0.950]" and row["AUC of each"] == "l1 0.700, l2 0.700"
    assert (row["TPR at FPR 0.1%"], row["TPR at FPR 5%"]) == ("–", "0.600 [0.300, 0.800] (4.0%)")
    assert (row["clean rejected"], row["examples rejected"]) == (str(share(0.1)), str(share(0.4)))
    assert row["n"] == "4 + 3"
    assert page.count("whether or not it fools the classifier") == 1
    plain = markdown([result("1110")])
    assert "**Detection**" not in plain and "whether or not it fools" not in plain


def test_detection_of_a_suspect_cell_is_struck_through_and_of_a_failed_one_left_out() -> None:
    suspect = result("1110", status="suspect", more=detected("l1"))
    failed = result(status="failed", attack="fgsm")
    _, _, line = detection_table(markdown([suspect, failed]))
    assert line[2] == "~~0.900 [0.450, 0.950]~~" and line[3] == "–"


def test_names_of_detectors_stay_text() -> None:
    page = markdown([result("1110", more=detected("x|y\n<b>", "`c`"))])
    assert detection_table(page)[2][-1] == "x\\|y &lt;b&gt; 0.700, \\`c\\` 0.700"


def test_rows_have_rates_of_detection_only_where_there_are_scores() -> None:
    with_, without = rows([result("1110", defense="magnet", more=detected("l1")), result("1110")])
    assert set(with_) - set(without) == {
        *("auc", "auc_ci_low", "auc_ci_high", "tpr_at_fpr_0.001", "tpr_at_fpr_0.01", "tpr_at_fpr_0.05"),
        *("clean_rejected", "attack_rejected"),
        *("fpr_reached_0.001", "fpr_reached_0.01", "fpr_reached_0.05"),
    }
    assert (with_["auc"], with_["auc_ci_low"], with_["tpr_at_fpr_0.001"]) == (0.9, 0.45, None)
    assert (with_["tpr_at_fpr_0.01"], with_["clean_rejected"], with_["attack_rejected"]) == (0.2, 0.1, 0.4)
    json.dumps(with_, allow_nan=False)
    assert frame([result("1110", defense="magnet", more=detected("l1")), result("1110")])["auc"].count() == 1


def test_rates_of_a_minimal_attack_stand_only_in_its_row_of_any_size() -> None:
    minimal = result("0000", eps=math.inf, more=detected("l1") | {"budgets": [0.2]})
    whole, inside = rows([minimal])
    assert whole["eps"] == "inf" and whole["auc"] == 0.9 and "auc" not in inside
    assert detection_table(markdown([minimal]))[2][1] == "pgd (minimal)"


# rows


def test_rows_are_strict_json_with_every_promised_key() -> None:
    found = rows([*MIXED, result("0000", eps=math.inf), result(status="not run", attack="c")], at=[0.3])
    again = json.loads(json.dumps(found, allow_nan=False))
    assert all(set(PROMISED) <= set(row) for row in again)
    assert [row["eps"] for row in again if row["defense"] == "none"] == [0.3, "inf", 0.3]


def test_rows_hold_the_hand_computed_numbers() -> None:
    (row,) = rows([result(["1100", "1000"], more={"flags": [ZERO_GRADIENT], "status": "suspect"})])
    assert row["robust_accuracy"] == pytest.approx(3 / 8) and row["clean_accuracy"] == 1
    assert row["craft_seconds_per_image"] == 0.5 and row["defense_seconds_per_image"] == 1 / 8
    assert (row["forward_passes_per_image"], row["backward_passes_per_image"]) == (40, 20)
    assert (row["status"], row["flags"], row["training_seconds"]) == ("suspect", ["zero-gradient"], 9)


@pytest.mark.parametrize("status", ["failed", "not run", "not applicable"])
def test_rows_without_a_number_say_none(status: str) -> None:
    (row,) = rows([result(status=status, more={"estimate_seconds": math.inf})])
    assert row["robust_accuracy"] is row["ci_low"] is row["clean_accuracy"] is row["estimate_seconds"] is None


# the page


def test_statuses_are_written_out() -> None:
    not_run = result(status="not run", attack="slow", more={"estimate_seconds": 720.0})
    suspect = result("1110", status="suspect", attack="x", more={"flags": [ZERO_GRADIENT]})
    none = result(status="not applicable", attack="y")
    failed = result(status="failed", attack="z")
    page = markdown([not_run, suspect, none, failed])
    assert ranking(page)["none"][4:] == [
        "not run (~12 min)",
        "~~0.750~~ *suspect (zero-gradient)*",
        "n/a",
        "failed",
    ]
    assert f"**zero-gradient** (invalid): {escape(ZERO_GRADIENT.message)} (in none × x)" in page
    assert "failed: because it is failed (in none × z)" in page


def test_costs_are_shown_and_left_out_on_request() -> None:
    found = [
        result(
            "1110", more={"hardware": {"cpu": "abacus"}, "versions": {"torch": "2"}, "gradients": ["bpda"]}
        )
    ]
    assert "| none | pgd | bpda | 40 | 20 | 0.5 | 0.25 | 9 |" in markdown(found)
    assert "abacus" in markdown(found)
    plain = markdown(found, times=False)
    assert "| none | pgd | bpda | 40 | 20 |\n" in plain
    assert "abacus" not in plain and "crafting s/image" not in plain and "torch 2" in plain


def test_two_runs_compare_equal_without_times() -> None:
    other = [
        r.model_copy(
            update={"seconds": Seconds(crafting=77), "estimate_seconds": 5.0, "hardware": {"cpu": "other"}}
        )
        for r in MIXED
    ]
    assert markdown(MIXED) != markdown(other)
    assert markdown(MIXED, times=False) == markdown(other, times=False)


def test_the_order_of_results_does_not_matter() -> None:
    found = [
        *MIXED,
        result(["1010", "1100"], attack="a"),
        result(["1011", "0100"], attack="b"),
        result("0000", eps=math.inf),
    ]
    shuffled = random.Random(0).sample(found, len(found))
    assert markdown(shuffled) == markdown(found)
    assert rows(shuffled) == rows(found)


def test_every_table_has_as_many_cells_in_each_row_as_in_its_header() -> None:
    hostile = "x|y\n| <script>alert(1)</script> [a](b) `c` *d*"
    found = [*MIXED, result(status="failed", defense=hostile, attack=hostile, more={"reason": hostile})]
    page = markdown(found, title=hostile)
    width = 0
    for line in page.splitlines():
        bars = line.replace("\\|", "").count("|") if line.startswith("|") else 0
        assert not bars or not width or bars == width, line
        width = bars
    assert "<script" not in page and "](b)" not in page.replace("\\](b)", "")


def test_escaping_keeps_text_literal_and_on_one_line() -> None:
    assert escape("a|b\n<i>&`\u202e\x1b[31m") == "a\\|b &lt;i&gt;&amp;\\` \\[31m"
    assert escape("rand_fgsm _x_") == "rand_fgsm \\_x\\_"
    assert escape("x" * 50, limit=10) == "x" * 9 + "…"


def test_labels_show_only_the_parameters_that_tell_namesakes_apart() -> None:
    texts = ["pgd:step=0.1,steps=40", "pgd:step=0.1,steps=100", "fgsm:clip=true", "not a spec((", "a:k=1+b"]
    assert short_labels(texts) == {
        "pgd:step=0.1,steps=40": "pgd (steps=40)",
        "pgd:step=0.1,steps=100": "pgd (steps=100)",
        "fgsm:clip=true": "fgsm",
        "not a spec((": "not a spec((",
        "a:k=1+b": "a+b",
    }


def test_full_specifications_and_threat_models_are_explained() -> None:
    page = markdown([result("1110", attack="pgd:steps=40", threat="white-box:draws=10")])
    assert "- attack: pgd:steps=40" in page and "Threat model: white-box:draws=10" in page
    assert "- **white-box**: all weights" in page and "not a robustness proof" in page


@pytest.mark.parametrize(
    ("norm", "eps", "text"),
    [("linf", 0.3, "linf ≤ 0.3"), ("linf", 8 / 255, "linf ≤ 8/255"), ("l2", math.inf, "l2, any size")],
)
def test_radius(norm: str, eps: float, text: str) -> None:
    assert radius(norm, eps) == text


def test_an_empty_page_says_so() -> None:
    assert "There are no results yet." in markdown([])


# files


def test_load_reads_back_what_was_written_sorted(tmp_path: Path) -> None:
    store(tmp_path, "b", *MIXED)
    store(tmp_path, "a", result("0000", eps=math.inf))
    loaded = load_results(tmp_path)
    assert loaded == load_results(tmp_path / "results") and len(loaded) == len(MIXED) + 1
    assert markdown(loaded) == markdown([*MIXED, result("0000", eps=math.inf)])


def test_copies_of_one_fingerprint_count_once_and_doubt_wins(tmp_path: Path) -> None:
    store(tmp_path, "a", result("1110"))
    store(tmp_path, "b", result("1110", status="suspect"))
    assert [r.status for r in load_results(tmp_path)] == ["suspect"]


def test_stale_results_are_an_error_unless_the_matrix_is_given(tmp_path: Path) -> None:
    old, new = result("1110", identity={"engine": "1"}), result("1000", identity={"engine": "2"})
    store(tmp_path, "old", old)
    store(tmp_path, "new", new)
    with pytest.raises(UsageError, match=r"new.*\.json and .*old.*\.json .* differ in: engine.*delete"):
        load_results(tmp_path)
    assert load_results(tmp_path, only={new.fingerprint}) == [new]
    with pytest.raises(UsageError, match="same question"):
        markdown([old, new])


@pytest.mark.parametrize("part", ["engine", "defense", "classifier", "data", "loader", "train_seed"])
def test_a_row_of_two_versions_of_one_system_is_an_error_unless_one_is_known_to_be_new(
    tmp_path, part
) -> None:
    old = result("1110", attack="fgsm", identity={"engine": "1", "attack": "f", part: "old"})
    new = result("1000", identity={"engine": "1", "attack": "p", part: "new"})
    other = result("1100", defense="magnet", identity={"engine": "1", "attack": "p", part: "old"})
    for name, one in (("old", old), ("new", new), ("other", other)):
        store(tmp_path, name, one)
    with pytest.raises(
        UsageError, match=f"new.*json and .*old.*json judge the same system but differ in: .*{part}"
    ):
        load_results(tmp_path)
    told: list[str] = []
    assert load_results(tmp_path, current=[new], say=told.append) == [other, new]
    assert len(told) == 1 and told[0].startswith("left out: 1 results in ")
    assert load_results(tmp_path, current=[old, other]) == [other, old]
    assert load_results(tmp_path, only={new.fingerprint}, current=[new], say=told.append) == [new]
    assert len(told) == 1  # nothing was left out that was asked for


def test_two_versions_of_one_attack_do_not_share_a_row(tmp_path: Path) -> None:
    old = result("1110", threat="gray-box", identity={"engine": "1", "attack": "old"})
    new = result("1000", identity={"engine": "1", "attack": "new"})
    store(tmp_path, "old", old)
    store(tmp_path, "new", new, result("1100", attack="fgsm", identity={"engine": "1", "attack": "f"}))
    with pytest.raises(UsageError, match="judge the same system but differ in: attack"):
        load_results(tmp_path)
    assert [r.cell.attack for r in load_results(tmp_path, current=[new])] == ["fgsm", "pgd"]


def test_a_row_says_what_the_processor_computed_otherwise_and_never_mixes_two_kinds(tmp_path: Path) -> None:
    one = result("1000", defense="magnet", more={"precision": {"bf16": "float32"}})
    page = markdown([one, result("1110")])
    assert "| magnet \\[bf16 as float32\\] |" in page and "| none |" in page
    store(tmp_path, "here", one)
    store(tmp_path, "there", result("1110", defense="magnet", attack="fgsm"))
    with pytest.raises(UsageError, match="judge the same system but differ in: bf16 computed as"):
        load_results(tmp_path)


def test_what_has_no_number_makes_no_version(tmp_path: Path) -> None:
    store(tmp_path, "old", result(status="not applicable", attack="fgsm", identity={"engine": "1"}))
    store(tmp_path, "new", result("1000", identity={"engine": "2"}))
    assert len(load_results(tmp_path)) == 2


@pytest.mark.parametrize("text", ["{", '{"schema_version": 9}', '{"schema_version": 1}', "\udcff"])
def test_an_unreadable_file_is_named(tmp_path: Path, text: str) -> None:
    store(tmp_path, "a", result("1110"))
    bad = tmp_path / "results" / "bad.json"
    bad.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=r"bad\.json"):
        load_results(tmp_path)


def test_hidden_and_other_files_are_not_read(tmp_path: Path) -> None:
    store(tmp_path, "a", result("1110"))
    (tmp_path / "results" / ".tmp-1.json").write_text("{")
    (tmp_path / "results" / "notes.txt").write_text("x")
    assert len(load_results(tmp_path)) == 1


def test_a_directory_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no directory `results`"):
        load_results(tmp_path)
    (tmp_path / "results").mkdir()
    assert load_results(tmp_path) == []
    with pytest.raises(UsageError, match="no results to show"):
        build(tmp_path)


def test_build_replaces_the_page_and_leaves_nothing_else(tmp_path: Path) -> None:
    store(tmp_path, "a", *MIXED)
    (tmp_path / "README.md").write_text(markdown(MIXED[:1]), encoding="utf-8")
    assert build(tmp_path) == tmp_path / "README.md"
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == markdown(MIXED)
    out = build(tmp_path, tmp_path / "new" / "page.md", only={MIXED[0].fingerprint})
    assert "good" in out.read_text(encoding="utf-8") and "weak" not in out.read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "new", "results"]


def test_build_keeps_the_old_page_when_it_cannot_write(tmp_path: Path) -> None:
    store(tmp_path, "a", *MIXED)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot write"):
        build(tmp_path, tmp_path / "file" / "page.md")
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        build(tmp_path, tmp_path / "taken")
    assert not list(tmp_path.rglob(".tmp-*"))


# the console


def test_the_console_has_a_row_a_cell_and_never_reads_markup() -> None:
    found = [*MIXED, result("1100", defense="[red]x[/red]\x1b[31m")]
    text = io.StringIO()
    Console(file=text, width=250, color_system=None).print(console_table(found))
    assert console_table(found).row_count == len(found)
    assert "[red]x[/red]" in text.getvalue() and "\x1b" not in text.getvalue()
    assert "(1.000 [0.510, 1.000])" in text.getvalue()  # the suspect one
    assert console_table([]).row_count == 0


def test_nothing_imports_torch() -> None:
    code = "import sys, robustbench_gan.leaderboard as l; l.markdown([]); l.console_table([]); "
    code += "print({'torch', 'pandas', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_csv_holds_the_rows(tmp_path: Path) -> None:
    found = [result("0111", attack="fgsm"), result("0011", attack="bim")]
    store(tmp_path, "a", *found)
    lines = build(tmp_path, tmp_path / "rows.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].split(",")[:4] == list(rows(found)[0])[:4]
    assert sorted(frame(found)["robust_accuracy"]) == [0.5, 0.75]


# what cells say of each other


def contradicted(*more: Result) -> list[Result]:
    """PGD leaves 90 of 100 standing white-box and 60 when carried over."""
    return [result("1" * 90 + "0" * 10), result("1" * 60 + "0" * 40, threat="black-box"), *more]


def headline_of(cells: list[Result], threat: str) -> Any:
    (table,) = [t for t in tables(cells) if t.setting.threat == threat]
    return table.standings[0]


def test_a_headline_that_rests_on_a_contradicted_cell_says_so() -> None:
    standing = headline_of(contradicted(), "white-box")
    assert [(c.attack, ids) for c, ids in standing.doubts] == [("pgd", ("white-box-weaker-than-black-box",))]
    assert standing.rank == 1  # it is said, not taken away
    assert not headline_of(contradicted(), "black-box").doubts
    page = markdown(contradicted())
    assert "] ‡ |" in page and "‡ none: the worst case rests on cells that others contradict" in page
    assert "] ‡ |" not in markdown(contradicted()[1:])


def test_an_attack_beyond_doubt_that_goes_below_both_settles_it() -> None:
    def doubts(left: int) -> int:
        stronger = result("1" * left + "0" * (100 - left), attack="square")
        return len(headline_of(contradicted(stronger), "white-box").doubts)

    assert doubts(0) == doubts(58) == 0
    assert doubts(60) == doubts(95) == 1
    suspect = result("0" * 100, attack="square", status="suspect")
    assert len(headline_of(contradicted(suspect), "white-box").doubts) == 1


def test_the_section_of_flags_across_cells() -> None:
    section = markdown(contradicted()).partition("## Red flags across cells")[2].partition("\n## ")[0]
    assert "1 comparison," in section
    assert "| **white-box-weaker-than-black-box** | invalid | none × pgd, white-box, linf ≤ 0.3 |" in section
    assert (
        "0.9 stands, 0.6 against pgd under black-box, untargeted, eps 0.3 (n = 100, corrected p = " in section
    )
    assert "No flag was raised." in markdown([result("1100")])
    assert "Red flags across cells" not in markdown([result(status="failed")])


def test_flags_across_cells_stand_with_the_cells_of_the_console_and_the_csv() -> None:
    cells = contradicted()
    findings = across(cells)
    assert [row["flags"] for row in rows(cells, findings=findings)] == [
        [],
        ["white-box-weaker-than-black-box"],
    ]
    assert [row["flags"] for row in rows(cells)] == [[], []]
    assert list(frame(cells)["flags"]) == [[], ["white-box-weaker-than-black-box"]]

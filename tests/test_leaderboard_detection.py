"""What the leaderboard says of detectors."""

from __future__ import annotations

import json
import math
from typing import Any

from planted_results import result

from robustbench_gan.leaderboard import frame, markdown, rows
from robustbench_gan.nouns.record import Detection, Detector
from robustbench_gan.nouns.statistics import Interval


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

"""The page of the leaderboard: what it shows, and that hostile text stays text."""

from __future__ import annotations

import math
import random

import pytest
from planted_results import MIXED, ZERO_GRADIENT, ranking, result

from robustbench_gan.leaderboard import markdown, rows
from robustbench_gan.leaderboard.labels import escape, radius, short_labels
from robustbench_gan.nouns.record import Seconds
from robustbench_gan.nouns.spec import Chain, FileReference


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
    spec = f"x:y={hostile}"
    found = [*MIXED, result(status="failed", defense=spec, attack=spec, more={"reason": hostile})]
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
    texts = ["pgd:step=0.1,steps=40", "pgd:step=0.1,steps=100", "fgsm:clip=true", "a:k=1+b"]
    own = FileReference.of("mine.py:make@3fa9c2d1")
    assert short_labels([*map(Chain.of, texts), own]) == {
        "pgd:step=0.1,steps=40": "pgd (steps=40)",
        "pgd:step=0.1,steps=100": "pgd (steps=100)",
        "fgsm:clip=true": "fgsm",
        "mine.py:make@3fa9c2d1": "mine.py:make@3fa9c2d1",
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

"""What attackers made and asked, on the page and in the flat rows."""

from __future__ import annotations

import pytest
from planted_results import result

from robustbench_gan.leaderboard import markdown, rows
from robustbench_gan.leaderboard.labels import short_labels
from robustbench_gan.nouns.spec import Spec

PAPERNOT = {
    "protocol": "papernot", "model": "e", "oracle": "defended", "answers": "labels", "step_sign": "plus", "images": 150,
    "rounds": 6, "points": 4800, "queries": 4650, "rejected": 0, "accuracy": 0.85, "agreement": 0.8125,
}  # fmt: skip
STATIC = {**PAPERNOT, "protocol": "static", "images": 10000, "queries": 10000, "points": 10000}
DYNAMIC = {**STATIC, "protocol": "dynamic", "queries": 70000, "points": 20000}
del STATIC["step_sign"], DYNAMIC["step_sign"]
TRAINED = {
    "on": "substitute", "gradient": "full", "generators": 1, "images": 10000, "steps": 600, "forward": 7, "backward": 8,
}  # fmt: skip


def black(protocol, facts, **more):
    return result("1100", threat=f"black-box:substitute={protocol}", attack="advgan",
                  more={"substitute": facts, "trained": TRAINED, **more})  # fmt: skip


def table(page, heading):
    """The cells of the table under a bold heading, as one dict a row."""
    block = page.split(f"**{heading}**\n\n")[1].split("\n\n")[0].splitlines()
    lines = [[text.strip() for text in line.strip("|").split(" | ")] for line in block]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_every_protocol_has_a_row_with_its_images_queries_accuracy_and_agreement():
    page = markdown([black("papernot", PAPERNOT), black("static", STATIC), black("dynamic", DYNAMIC)])
    shown = table(page, "Substitutes")
    assert {row["protocol"]: (row["attacker's images"], row["queries"]) for row in shown} == {
        "papernot": ("150", "4650"), "static": ("10000", "10000"), "dynamic": ("10000", "70000"),
    }  # fmt: skip
    assert {row["attack"] for row in shown} == {
        f"advgan, black-box (substitute={p})" for p in ("papernot", "static", "dynamic")
    }
    assert {(row["accuracy"], row["agreement with the oracle"]) for row in shown} == {("0.85", "0.812")}
    assert {row["protocol"]: row["step sign"] for row in shown} == {
        "papernot": "plus",
        "static": "–",
        "dynamic": "–",
    }
    assert [row["images"] for row in table(page, "Trained attacks")] == ["10000"] * 3


def test_queries_stand_with_their_limit_median_and_most():
    asked = {"answers": "labels", "limit": 500, "median": 40.0, "max": 500, "total": 9000}
    page = markdown([result("1100", threat="query:access=labels,limit=500", more={"queries": asked})])
    (row,) = table(page, "Queries")
    assert (row["answers"], row["limit an image"], row["median an image"], row["most an image"]) == (
        "labels", "500", "40", "500",
    )  # fmt: skip


def test_a_copy_is_called_one_in_a_table_of_its_own_threat_model():
    copy = {"seed": 2**31, "parts": 1, "accuracy": 0.97, "agreement": 0.95}
    threat = "gray-box:copy=True,draws=1,gradient=auto,unroll=5"
    page = markdown(
        [result("1100", threat=threat, more={"attacked_copy": copy}), result("1110", threat="gray-box")]
    )
    (row,) = table(page, "Copies attacked in the defense's place")
    assert (row["seed of the copy"], row["its clean accuracy"]) == ("2147483648", "0.97")
    headings = [line for line in page.splitlines() if line.startswith("## mnist")]
    assert (
        sum(" · gray-box:copy · " in h for h in headings) == sum(" · gray-box · " in h for h in headings) == 1
    )
    assert "- **gray-box:copy**: everything but the defense's own weights" in page


def test_a_copy_is_labelled_as_its_threat_model_is_named():
    texts = ["gray-box", *(f"gray-box:copy=True,draws=1,gradient={g},unroll=5" for g in ("auto", "bpda"))]
    assert list(short_labels(map(Spec.of, texts[:2])).values()) == ["gray-box", "gray-box:copy"]
    assert list(short_labels(map(Spec.of, texts)).values()) == [
        "gray-box",
        "gray-box:copy (gradient=auto)",
        "gray-box:copy (gradient=bpda)",
    ]


def test_a_page_without_such_attackers_has_none_of_these_tables():
    page = markdown(
        [result("1100"), result("", status="failed", attack="fgsm", more={"substitute": PAPERNOT})]
    )
    assert not any(
        f"**{heading}**" in page for heading in ("Substitutes", "Trained attacks", "Queries", "Copies")
    )


@pytest.mark.parametrize(
    ("facts", "keys"),
    [({"substitute": PAPERNOT}, {"substitute_images": 150, "substitute_queries": 4650, "substitute_accuracy": 0.85,
                                 "substitute_agreement": 0.8125}),
     ({"queries": {"limit": 5, "median": 2.5, "max": 5}}, {"queries_limit": 5, "queries_median": 2.5, "queries_max": 5}),
     ({"attacked_copy": {"seed": 9, "accuracy": 0.5}}, {"copy_seed": 9, "copy_accuracy": 0.5})],
)  # fmt: skip
def test_flat_rows_have_the_keys_of_what_there_is(facts, keys):
    (row,), (plain,) = rows([result("1100", more=facts)]), rows([result("1100")])
    assert {name: row[name] for name in row.keys() - plain.keys()} == keys

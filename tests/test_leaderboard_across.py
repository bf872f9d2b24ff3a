"""What results that contradict each other come to on the leaderboard."""

from __future__ import annotations

from typing import Any

from planted_results import result

from robustbench_gan.flags.across import across
from robustbench_gan.leaderboard import frame, markdown, rows, tables
from robustbench_gan.nouns.record import Result


def contradicted(*more: Result) -> list[Result]:
    """PGD leaves 90 of 100 standing white-box and 60 when carried over."""
    return [result("1" * 90 + "0" * 10), result("1" * 60 + "0" * 40, threat="black-box"), *more]


def headline_of(cells: list[Result], threat: str) -> Any:
    (table,) = [t for t in tables(cells) if t.setting.threat == threat]
    return table.standings[0]


def test_a_headline_that_rests_on_a_contradicted_cell_says_so() -> None:
    standing = headline_of(contradicted(), "white-box")
    assert [(str(c.attack), ids) for c, ids in standing.doubts] == [
        ("pgd", ("white-box-weaker-than-black-box",))
    ]
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

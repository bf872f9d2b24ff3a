"""Text from strangers: no terminal obeys it, no page runs it, no spreadsheet computes it, and no file is read forever."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from pathlib import Path

import pytest
import rich.console
from planted_records import coherent
from planted_results import result, store
from rich.text import Text

from robustbench_gan.base.errors import LONGEST, UsageError, one_line, told
from robustbench_gan.base.terminal import Plain
from robustbench_gan.cell.context import Settings
from robustbench_gan.cli import main
from robustbench_gan.engine.matrix import read_matrix, read_matrix_file
from robustbench_gan.engine.run import _line
from robustbench_gan.leaderboard import build, markdown
from robustbench_gan.leaderboard.console import console_table
from robustbench_gan.leaderboard.labels import Labels
from robustbench_gan.leaderboard.spreadsheet import csv_text
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.results.places import place
from robustbench_gan.results.stored import read_result, write_text

NASTY = "[red]x[/red] \x1b[31m\x07\x00\u202eabc\udcff\u200b | `y` <script>alert(1)</script>\n# H1\n=1+1"


@pytest.fixture
def rbg(capfd):
    """Run a command: exit code, standard output and standard error."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        return (end.value.code or 0, *capfd.readouterr())

    return run


def test_one_line_has_nothing_that_a_terminal_obeys() -> None:
    line = told(NASTY)
    assert line == one_line(NASTY) and all(c.isprintable() for c in line)
    assert "[red]x[/red]" in line and line.encode()
    huge = told("é" * 5_000_000)
    assert len(huge) < LONGEST + 50 and huge.endswith("… (5,000,000 characters in all)")
    assert one_line("a  b\n\tc", 4) == "a b…" and one_line("abcd", 4) == "abcd"


@pytest.mark.parametrize("made", [NASTY, Text(NASTY), f"  {NASTY}"], ids=["text", "Text", "indented"])
def test_the_console_prints_markup_and_controls_as_text(made) -> None:
    out = io.StringIO()
    Plain(file=out, width=400, force_terminal=True, color_system=None).print(made)
    assert "[red]x[/red]" in out.getvalue() and out.getvalue().count("\n") == 1
    assert not any(c in out.getvalue() for c in "\x1b\x07\x00\u202e\udcff\u200b")


def test_a_page_shows_a_strangers_names_and_reasons_and_runs_none() -> None:
    nasty = NASTY.replace("\udcff", "")  # which no record can hold: it is no text
    page = markdown(
        [
            result("10", defense=f"x:y={nasty}"),
            result(status="failed", attack=f"x:y={nasty}", more={"reason": nasty * 100}),
        ]
    )
    assert "<script>" not in page and "\n# H1" not in page and "\x1b" not in page and "\u202e" not in page
    assert "&lt;script&gt;" in page and r"\`y\`" in page
    assert page.encode() and max(map(len, page.splitlines())) < 20_000
    for line in page.splitlines():
        if line.startswith("|"):
            assert line.replace(r"\|", "").count("|") > 2 and line.endswith("|")


def test_cells_of_a_csv_file_are_never_formulas_and_numbers_stay_numbers(tmp_path: Path) -> None:
    for text in ("=1+1", "+1+1", "-x", "@SUM(A1)", "\t=1", "\n=1", "\r@x"):
        assert csv_text(text) == "'" + text.strip()
    assert [csv_text(v) for v in (-0.5, "-0.5", "+1", 3, None, True, "a=b")] == [
        -0.5,
        "-0.5",
        "+1",
        3,
        None,
        True,
        "a=b",
    ]
    reason = {"reason": "=cmd|' /C calc'!A0"}
    store(
        tmp_path, "a", result("10", defense="@SUM:y=1"), result("11", defense="-x:y=\x1b[2Jx\ny"),
        result(status="failed", attack="fgsm", more=reason),
    )  # fmt: skip
    found = list(csv.DictReader(io.StringIO(build(tmp_path, tmp_path / "rows.CSV").read_text())))
    assert {row["defense"] for row in found} == {"'@SUM:y=1", "'-x:y= [2Jx y", "none"}
    assert {row["reason"] for row in found} == {"'=cmd|' /C calc'!A0", ""}
    assert sorted(row["robust_accuracy"] for row in found) == ["", "0.5", "1.0"]


@pytest.mark.parametrize("name", ["x.tex", "x.html", "page", "x.json", "x.md.gz"])
def test_a_leaderboard_of_an_unknown_kind_is_refused(tmp_path: Path, name: str) -> None:
    store(tmp_path, "a", result("10"))
    with pytest.raises(UsageError, match=r"known: \.md, \.csv, \.svg\.$"):
        build(tmp_path, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_runs_line_and_its_table_show_the_same_number_at_the_radius_asked() -> None:
    """Of four images one is lost at 0.1 and two at 0.3: a minimal attack that wins all four says 0.75 and 0.50."""
    one = result(
        "0000", size=[0.05, 0.2, 0.4, 0.9], eps=float("inf"), norm="l2", more={"budgets": [0.1, 0.3]}
    )
    line = _line(one, Labels.among([one])).plain
    assert (
        "robust 0.750 [0.301, 0.954] at l2 ≤ 0.1, n 4" in line
        and "robust 0.500 [0.150, 0.850] at l2 ≤ 0.3" in line
    )
    out = io.StringIO()
    rich.console.Console(file=out, width=250).print(console_table([one]))
    assert "0.750 [0.301, 0.954]" in out.getvalue() and "0.500 [0.150, 0.850]" in out.getvalue()
    assert "robust 0.500 [0.150, 0.850], n 4" in _line(result("1100"), Labels.among([result("1100")])).plain
    assert Settings().keep is None


def test_show_takes_several_records_and_names_those_it_cannot_read(tmp_path: Path, rbg) -> None:
    found = [coherent(result("10")), coherent(result("11", attack="bim"))]
    store(tmp_path, "a", *found)
    paths = [tmp_path / "results" / "a" / place(one.cell) for one in found]
    code, out, _ = rbg("show", *paths, "--json")
    assert code == 0 and [row["attack"] for row in json.loads(out)] == ["pgd", "bim"]
    code, out, _ = rbg("show", paths[0], "--json")
    assert code == 0 and json.loads(out)["attack"] == "pgd"
    broken = tmp_path / "broken.json"
    broken.write_text("[" * 100_000)
    code, out, err = rbg("show", paths[0], broken, paths[1])
    assert code == 2 and out.count("fingerprint") == 2
    assert err.startswith("rbg: ") and err.count("\n") == 1 and "broken.json is no result" in err


# files and texts that nobody would write


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "loop"])
def test_what_is_no_ordinary_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    started = time.monotonic()
    for read in (read_result, lambda p: read_matrix_file(p, {})):
        with pytest.raises(UsageError, match="cannot read"):
            read(path)
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "text",
    [
        "attacks = " + "[" * 100_000,
        "a = " + "{a=" * 100_000,
        ".".join(["a"] * 100_000) + " = 1",
        "[" + ".".join(["a"] * 9_000) + "]\nb = 1",
        "attacks = [" + '"x",' * 3 + "]\n" + "[[block]]\n" * 3 + "x" * 100_000,
    ],
    ids=["lists", "tables", "keys", "table", "junk"],
)
def test_a_matrix_that_is_nested_without_end_is_one_line_within_a_second(text: str) -> None:
    started = time.monotonic()
    with pytest.raises(UsageError) as error:
        read_matrix(text, "m.toml", {})
    assert time.monotonic() - started < 5  # on a busy machine; about 0.1 s on a quiet one
    assert len(told(str(error.value))) <= LONGEST + 50


def test_a_huge_record_or_matrix_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(40 * 2**20)
    with pytest.raises(UsageError, match="none of its kind has more than"):
        read_result(path)
    with pytest.raises(UsageError, match="none of its kind has more than"):
        read_matrix_file(path, {})


@pytest.mark.parametrize(
    "text", ["a(b=" * 100_000, "a:b=" + "c(d=" * 50_000 + ")" * 50_000, "a:" + "b=1," * 100_000]
)
def test_a_spec_that_is_nested_without_end_is_one_short_line(text: str) -> None:
    with pytest.raises(UsageError) as error:
        Spec.parse(text)
    assert len(str(error.value)) < LONGEST


def test_a_records_hostile_texts_survive_the_round_and_stay_text(tmp_path: Path, rbg) -> None:
    nasty = NASTY.replace("\udcff", "")
    failed = coherent(
        result(status="failed", defense="none", more={"reason": nasty, "traceback": [nasty] * 3})
    )
    path = tmp_path / "r.json"
    path.write_text(write_text(failed))
    assert read_result(path) == failed
    code, out, _ = rbg("show", path)
    assert code == 0 and "[red]x[/red]" in out and not any(c in out for c in "\x1b\x07\x00\u202e\u200b")

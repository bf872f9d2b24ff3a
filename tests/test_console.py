"""Tables and records on a terminal: 80 columns, no word broken, flags below."""

from __future__ import annotations

import io

import pytest
from planted_results import MIXED, result
from rich.console import Console

from robustbench_gan.base.terminal import folded
from robustbench_gan.cli.show_record import fact
from robustbench_gan.flags import CATALOGUE
from robustbench_gan.leaderboard import console_table

FLAGS = [CATALOGUE["no-eot"].raised("warning"), CATALOGUE["single-seed"].raised("note")]
KNOWN = [
    result("0110", attack="pgd:steps=40", more={"flags": FLAGS}),
    result("1110", attack="pgd:steps=5", more={"flags": FLAGS[1:]}),
    result("0111", defense="magnet"),
    result(status="failed", defense="magnet", threat="gray-box"),
]


def printed(found, width):
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(console_table(found))
    return out.getvalue().splitlines()


def test_a_table_is_known_to_the_letter():
    assert printed(KNOWN, 80) == [
        "mnist, a, untargeted, linf ≤ 0.3, n 4",
        "robust                clean  status  flags    craft    defense  attack",
        "                                              s/image  s/image",
        "magnet / gray-box",
        "–                     –      failed           –        –        pgd",
        "magnet / white-box",
        "0.750 [0.301, 0.954]  1.000  ok               0.5      0.25     pgd",
        "none / white-box",
        "0.500 [0.150, 0.850]  1.000  ok      (1) (2)  0.5      0.25     pgd (steps=40)",
        "0.750 [0.301, 0.954]  1.000  ok      (2)      0.5      0.25     pgd (steps=5)",
        "(1) no-eot",
        "(2) single-seed",
    ]


@pytest.mark.parametrize("width", [60, 70, 80])
def test_no_table_is_wider_than_its_console_and_no_word_is_broken(width):
    others = [
        result("0110", attack="hopskipjump:iterations=64", goal="random", eps=0.5),
        result("0110", defense="adversarial-training:attack=fgsm+median", dataset="fashion-mnist"),
    ]
    lines = printed([*KNOWN, *MIXED, *others], width)
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    assert {"hopskipjump,", "adversarial-training+median", "fashion-mnist", "random,", "(control),"} <= words
    assert sum(line.startswith(("0.", "1.", "(0.", "(1.", "–")) for line in lines) == len(
        [*KNOWN, *MIXED, *others]
    )


def test_columns_are_spared_in_turn_where_names_have_no_room():
    heads = {width: printed(KNOWN, width)[1].split() for width in (80, 70, 60, 50)}
    assert heads[80] == ["robust", "clean", "status", "flags", "craft", "defense", "attack"]
    assert heads[70] == ["robust", "clean", "status", "flags", "craft", "attack"]
    assert heads[60] == ["robust", "clean", "status", "flags", "attack"]
    assert heads[50] == ["robust", "status", "flags", "attack"]


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("pgd:loss=ce,steps=3,restarts=1", 20, ["pgd:loss=ce,steps=3,", "restarts=1"]),
        ("one two  three", 8, ["one two", "three"]),
        ("0123456789", 4, ["0123", "4567", "89"]),
        ("a 0123456789", 4, ["a", "0123", "4567", "89"]),
        ("", 4, [""]),
    ],
)
def test_text_is_folded_at_spaces_and_after_commas(text, width, lines):
    assert folded(text, width) == lines
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_digest_goes_whole_onto_a_line_of_its_own():
    assert [line.plain for line in fact("digest", "f" * 64, 80)] == ["digest", "  " + "f" * 64]
    assert [line.plain for line in fact("attack", "pgd:a=1,b=2", 25)] == [
        "attack           pgd:a=1,",
        "                 b=2",
    ]
    assert not list(fact("queries", "", 80))

"""The picture of a leaderboard: where its dots lie, that it is well-formed whatever names say, and always the same."""

from __future__ import annotations

import random
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from robustbench_gan.leaderboard import load_results, picture, tables
from robustbench_gan.leaderboard.figure import COLOURS, LEFT, RIGHT, WIDTH

COMMITTED = Path(__file__).parents[1] / "leaderboard"
NAME = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def committed():
    return load_results(COMMITTED)


def test_every_headline_is_a_dot_at_its_value_in_the_colour_of_its_threat_model(committed):
    root = ElementTree.fromstring(picture(committed))
    dots = {(c.get("cx"), c.get("stroke")) for c in root.iter(f"{NAME}circle") if c.get("stroke")}
    wanted = set()
    for table in tables(committed):
        for standing in table.standings:
            if standing.headline and not standing.controls_only:
                x = LEFT + standing.headline.value * (WIDTH - LEFT - RIGHT)
                wanted.add((f"{x:.1f}", COLOURS[table.setting.threat]))
    assert len(wanted) > 5 and wanted <= dots


def test_the_order_of_the_results_does_not_matter(committed):
    shuffled = random.Random(0).sample(committed, len(committed))
    assert picture(shuffled) == picture(committed)


def test_names_are_text_whatever_they_hold(committed):
    name = "<script>&\"'\x1b[31m"
    renamed = [
        r.model_copy(update={"cell": r.cell.model_copy(update={"defense": name})}) for r in committed[:1]
    ]
    drawn = picture(renamed)
    texts = [t.text or "" for t in ElementTree.fromstring(drawn).iter(f"{NAME}text")]
    assert any(text.startswith("<script>&") for text in texts)
    assert "<script>" not in drawn and not re.search(r"[\x00-\x08\x0b-\x1f]", drawn)

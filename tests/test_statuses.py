"""Every attack x defense x threat model has a status that somebody read and committed.

Untargeted; in linf, or in a norm that the attack has instead.

`python tools/expected_statuses.py` writes the file anew; nothing here does.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustbench_gan.cell.question import why_not
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.contracts.threat import THREATS
from robustbench_gan.nouns import registry

EXPECTED = json.loads((Path(__file__).parent / "expected_statuses.json").read_text(encoding="utf-8"))
ATTACKS, DEFENSES = registry.names("attacks"), registry.names("defenses")


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("defense", DEFENSES)
def test_the_status_of_every_combination_is_the_expected_one(attack, defense):
    assert attack in EXPECTED, (
        f"no row for attack {attack!r}: run tools/expected_statuses.py and read what it wrote"
    )
    assert defense in EXPECTED[attack], f"no row for defense {defense!r}: run tools/expected_statuses.py"
    info, chain = info_of(registry.load("attacks", attack)), [registry.load("defenses", defense)]
    norm = "linf" if "linf" in info.norms else info.norms[-1]
    found = {
        name: why_not(info, chain, make(), "untargeted", norm) or "run" for name, make in THREATS.items()
    }
    assert found == EXPECTED[attack][defense]


def test_no_row_is_left_over():
    assert sorted(EXPECTED) == ATTACKS
    assert all(sorted(rows) == DEFENSES for rows in EXPECTED.values())

"""A committed record that nothing contradicts, and why another is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from planted_records import with_evidence

from robustbench_gan.base.errors import UsageError
from robustbench_gan.leaderboard import load_results
from robustbench_gan.nouns.record import Result
from robustbench_gan.results.stored import read_result, write_text

COMMITTED = Path(__file__).parents[1] / "leaderboard"
Raw = dict[str, Any]


@pytest.fixture(name="honest", scope="module")
def honest_record() -> Result:
    """A committed record of MagNet under two judge seeds, with clean and lost images."""
    found = [r for r in load_results(COMMITTED) if r.outcomes and r.cell.defense.name == "magnet"]
    return with_evidence(
        next(r for r in found if r.cell.attack.name == "fgsm" and r.cell.threat_name == "white-box"),
        zero_gradients=3,
    )


def raw_of(result: Result) -> Raw:
    raw: Raw = json.loads(write_text(result))
    return raw


def refused(tmp_path: Path, raw: Any) -> str:
    """Why a record is not read; empty where it is. Anything but one line of UsageError is a failure of the test."""
    path = tmp_path / "record.json"
    path.write_text(json.dumps(raw))
    try:
        read_result(path)
    except UsageError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def set_in(*keys: Any, value: Any) -> Callable[[Raw], None]:
    def change(raw: Raw) -> None:
        for key in keys[:-1]:
            raw = raw[key]
        raw[keys[-1]] = value(raw[keys[-1]]) if callable(value) else value

    return change

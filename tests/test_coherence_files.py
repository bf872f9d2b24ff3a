"""Records of an older schema, in another place, and files that are no records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from honest_record import Raw, honest_record  # noqa: F401 - fixtures

from robustbench_gan.base.errors import UsageError
from robustbench_gan.leaderboard import load_results
from robustbench_gan.leaderboard.convert import convert
from robustbench_gan.nouns.fields import unpacked
from robustbench_gan.nouns.record import Result
from robustbench_gan.results.places import place
from robustbench_gan.results.stored import read_result, read_stored, write_text

# older schemas


def as_schema_1(result: Result) -> Raw:
    """The record as the first schema held it: bits as they are, none of today's fields."""
    raw: Raw = json.loads(result.model_dump_json())
    raw["schema_version"] = 1
    for later in ("converted_from", "adversarial", "precision", "checks", "evidence"):
        del raw[later]
    for name in ("clean", "accepted", "robust"):
        raw["outcomes"][name] = [unpacked(text) for text in raw["outcomes"][name]]
    return raw


def test_a_record_of_schema_1_is_read_with_a_line_refused_when_strict_and_converted(
    tmp_path: Path, honest: Result
) -> None:
    old = as_schema_1(honest)
    path = tmp_path / "results" / place(honest.cell)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(old))
    lied = path.parent.parent / "gray-box" / path.name
    lines: list[str] = []
    (read,) = load_results(tmp_path, say=lines.append)
    assert read.outcomes == honest.outcomes and read.converted_from == 1 and read_stored(path).schema == 1
    assert len(lines) == 1 and "rbg leaderboard convert" in lines[0]
    with pytest.raises(UsageError, match="--strict: 1 of 1 records are of an older schema"):
        load_results(tmp_path, strict=True)
    lied.parent.mkdir()
    old["outcomes"]["robust"] = old["outcomes"]["clean"]
    lied.write_text(json.dumps(old))
    done = convert(tmp_path)
    assert (done.converted, done.kept, len(done.refused)) == (1, 0, 1) and str(lied) in done.refused[0]
    assert json.loads(lied.read_text())["schema_version"] == 1  # what was refused is left as it was
    lied.unlink()
    assert load_results(tmp_path, strict=True) == [read] and convert(tmp_path)[:2] == (0, 1)


def test_a_record_must_lie_where_its_cell_says(tmp_path: Path, honest: Result) -> None:
    right = place(honest.cell)
    for wrong in (right.with_name("x.json"), right.parent.parent / "gray-box" / right.name, Path(right.name)):
        path = tmp_path / wrong.parts[0] / "results" / wrong
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(write_text(honest))
        with pytest.raises(UsageError, match="not where its cell belongs"):
            load_results(tmp_path / wrong.parts[0])
        path.unlink()
    gathered = tmp_path / "many" / "results" / "machine-b" / right
    gathered.parent.mkdir(parents=True)
    gathered.write_text(write_text(honest))
    assert load_results(tmp_path / "many") == [honest]


# files that are no records


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"schema_version": 2, "schema_version": 2}', "stands twice"),
        ('{"schema_version": NaN}', "NaN is no number"),
        ('{"schema_version": true}', "schema version True"),
        ('{"schema_version": ' + "9" * 5000 + "}", "is no JSON"),
        ('{"schema_version": "' + "x" * 5000 + '"}', "schema version"),
    ],
    ids=range(7),
)
def test_what_is_no_record_is_one_short_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        read_result(tmp_path / "r.json")
    assert len(str(error.value)) < 600

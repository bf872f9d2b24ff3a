"""The record: it comes back from JSON unchanged, asks one question, and what is absurd or broken is refused."""

from __future__ import annotations

import json
import math

import pytest
from planted_records import coherent
from pydantic import ValidationError

from robustbench_gan.base.errors import UsageError
from robustbench_gan.nouns.flag import Flag
from robustbench_gan.nouns.record import (
    SCHEMA_VERSION,
    Cell,
    Detection,
    Detector,
    Kept,
    Outcomes,
    Result,
    Seconds,
)
from robustbench_gan.nouns.statistics import Interval
from robustbench_gan.results.places import place
from robustbench_gan.results.stored import read_result, write_text

CELL = {
    "dataset": "mnist",
    "classifier": "small-cnn",
    "defense": "magnet:width=3",
    "attack": "pgd:steps=10",
    "threat": "white-box:gradient=auto,draws=1",
    "norm": "linf",
    "eps": 0.3,
    "first": 150,
    "samples": 4,
    "seed": 7,
    "judge_seeds": 2,
    "identity": {"data": "abc", "engine": "def"},
}

KEPT = Kept(file=place(Cell(**CELL)).with_suffix(".safetensors").name, digest="0123456789abcdef")


def outcomes(samples=4, seeds=2, **changes):
    base = {
        "clean": ["1" * samples] * seeds,
        "accepted": ["1" * samples] * seeds,
        "robust": ["10" * (samples // 2)] * seeds,
        "size": [[0.25] * samples],
        "forward": [11] * samples,
        "backward": [10] * samples,
    }
    return Outcomes(**{**base, **changes})


def result(cell=None, **changes):
    cell = cell or Cell(**CELL)
    base = {
        "cell": cell,
        "fingerprint": cell.fingerprint,
        "status": "ok",
        "outcomes": outcomes(cell.samples, cell.judge_seeds),
        "flags": [
            Flag(id="no-eot", severity="warning", message="m", evidence={"n": 3, "share": 0.5, "t": "x"})
        ],
        "controls": {"classifier": 0.75},
        "substitute": {"agreement": 0.1 + 0.2, "model": "e", "rounds": 6},
        "seconds": Seconds(training=1.5, crafting=8.0, judging=4.0),
        "versions": {"torch": "2"},
        "weights": {"classifier": "00ff00ff00ff00ff"},
    }
    return coherent(Result(**{**base, **changes}))


def detection(**changes):
    share = Interval(value=0.25, low=0.0, high=0.75, n=4)
    one = Detector(name="l1", clean_rejected=share, tpr=[None, None, None], fpr=[None, None, None])
    full = Detector(
        name="together", clean_rejected=share, attack_rejected=share, auc=share, tpr=[None, share, share],
        fpr=[None, share, share],
        roc=[(0.0, 0.0), (0.25, 0.5), (1.0, 1.0)],
    )  # fmt: skip
    return Detection(
        **{"validation": 1000, "clean": 4, "positive": 3, "detectors": [one], "together": full, **changes}
    )


def strict(text):
    def refuse(token):
        raise AssertionError(f"{token} is no JSON")

    return json.loads(text, parse_constant=refuse)


def written(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"status": "suspect", "reason": "zero gradient"},
        {"status": "failed", "reason": "é\n\"trace\"", "outcomes": None},
        {"status": "failed", "reason": "odd values [ 1.  2.   3.], and \"[4.  5.]\\", "outcomes": None},
        {"status": "not applicable", "reason": "no purifier", "outcomes": None},
        {"status": "not run", "reason": "over its limit", "outcomes": None, "estimate_seconds": 1e9},
        {"outcomes": outcomes(size=[[0.1, 0.2, 0.25, 0.0], [0.1, 1e-30, 0.25, 0.3]])},
        {"flags": [Flag(id="no-eot", severity="warning", message="m", evidence={"a": -math.inf, "b": math.inf})]},
        {"precision": {"bf16": "float32"}, "adversarial": KEPT},
    ],
)  # fmt: skip
def test_a_result_comes_back_from_its_json_unchanged(tmp_path, changes):
    before = result(**changes)
    text = write_text(before)
    after = read_result(written(tmp_path, text))
    strict(text)
    assert repr(after) == repr(before)  # repr, since NaN is not equal to itself
    assert write_text(after) == text


def test_an_infinite_budget_comes_back_and_keeps_its_fingerprint(tmp_path):
    cell = Cell(**{**CELL, "eps": math.inf})
    text = write_text(result(cell))
    after = read_result(written(tmp_path, text))
    strict(text)
    assert after.cell.eps == math.inf and after.fingerprint == cell.fingerprint
    assert after == result(cell)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "cifar10"},
        {"classifier": "a"},
        {"defense": "magnet:width=4"},
        {"attack": "pgd:steps=11"},
        {"goal": "random"},
        {"threat": "white-box:gradient=auto,draws=2"},
        {"norm": "l2"},
        {"eps": 0.3 + 1e-15},
        {"eps": math.inf},
        {"first": 0},
        {"samples": 5},
        {"seed": 8},
        {"judge_seeds": 1},
        {"identity": {"data": "abc", "engine": "deg"}},
        {"identity": {}},
    ],
    ids=str,
)
def test_the_fingerprint_changes_with_every_field(change):
    assert set(Cell.model_fields) == {*CELL, "goal"}
    assert Cell(**{**CELL, **change}).fingerprint != Cell(**CELL).fingerprint


def test_the_question_is_the_fingerprint_without_the_code_that_answers():
    cell, newer = Cell(**CELL), Cell(**{**CELL, "identity": {"engine": "new"}})
    assert newer.question == cell.question and newer.fingerprint != cell.fingerprint
    assert Cell(**{**CELL, "seed": 8}).question != cell.question


def test_the_fingerprint_depends_on_values_not_on_how_they_were_given():
    again = {
        **dict(reversed(CELL.items())),
        "identity": {"engine": "def", "data": "abc"},
        "goal": "untargeted",
    }
    assert Cell(**again).fingerprint == Cell(**CELL).fingerprint
    assert Cell(**{**CELL, "eps": 1}).fingerprint == Cell(**{**CELL, "eps": 1.0}).fingerprint
    assert (
        Cell(**CELL).threat_name == "white-box" and Cell(**{**CELL, "threat": "query"}).threat_name == "query"
    )


@pytest.mark.parametrize(
    "change",
    [{"eps": -1}, {"eps": math.nan}, {"samples": 0}, {"first": -1}, {"judge_seeds": 0}, {"norm": "l3"},
     {"goal": "win"}, {"typo": 1}, {"seed": 1.5}],
    ids=str,
)  # fmt: skip
def test_an_absurd_cell_is_refused(change):
    with pytest.raises(ValidationError):
        Cell(**{**CELL, **change})


def edited(change):
    raw = json.loads(write_text(result()))
    change(raw)
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        (write_text(result())[:-40], "is no JSON"),
        ("[]", "schema version None"),
        ("3", "schema version None"),
        (
            edited(lambda r: r.update(schema_version=SCHEMA_VERSION + 1)),
            "schema version 3, this program reads 2",
        ),
        (edited(lambda r: r.pop("schema_version")), "schema version None"),
        (edited(lambda r: r["cell"].update(eps=0.2)), "the fingerprint is not that of the cell"),
        (edited(lambda r: r.update(fingerprint="0" * 64)), "the record was edited"),
        (edited(lambda r: r.update(extra=1)), "extra: Extra inputs"),
        (edited(lambda r: r["cell"].update(extra=1)), "cell.extra"),
        (edited(lambda r: r.pop("status")), "status: Field required"),
        (edited(lambda r: r.update(status="fine")), "status"),
        (edited(lambda r: r.update(outcomes=None)), "must hold outcomes"),
        (edited(lambda r: r.update(status="failed")), "must say why"),
        (edited(lambda r: r["outcomes"].update(robust=["101", "101"])), "disagree in length"),
        (edited(lambda r: r["outcomes"].update(robust=["1010"])), "disagree in length"),
        (edited(lambda r: r["outcomes"].update(forward=[1, 2, 3])), "disagree in length"),
        (edited(lambda r: r["outcomes"].update(size=[[0.1] * 3])), "disagree in length"),
        (edited(lambda r: r["outcomes"].update(size=[])), "lists of sizes for 2 judge seeds"),
        (edited(lambda r: r["outcomes"].update(size=[[0.1] * 4] * 3)), "3 lists of sizes for 2 judge seeds"),
        (edited(lambda r: r["outcomes"].update(clean=["1x10", "1111"])), "outcomes.clean.0"),
        (edited(lambda r: r["outcomes"].update(forward=["many"] * 4)), "outcomes.forward.0"),
    ],
)
def test_a_broken_record_is_a_usage_error_that_names_file_and_fault(tmp_path, text, message):
    with pytest.raises(UsageError, match=r"result\.json") as error:
        read_result(written(tmp_path, text))
    assert message in str(error.value)


@pytest.mark.parametrize(("samples", "seeds"), [(6, 2), (4, 3)])
def test_outcomes_must_be_of_the_cells_samples_and_seeds(samples, seeds):
    with pytest.raises(ValidationError, match=r"outcomes for 4 samples|judgements for 2 seeds"):
        result(outcomes=outcomes(samples, seeds))


@pytest.mark.parametrize("change", [{"detectors": []}, {"positives": "all"}, {"typo": 1}], ids=str)
def test_an_absurd_detection_is_refused(change):
    with pytest.raises(ValidationError):
        detection(**change)
    with pytest.raises(ValidationError):
        Detector(**{**detection().together.model_dump(), "tpr": [None]})


def test_a_missing_or_binary_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        read_result(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"binary\.json: it is no UTF-8"):
        read_result(tmp_path / "binary.json")


def test_only_an_ok_result_counts():
    assert result().counts
    assert not result(status="suspect").counts
    assert not result(status="failed", reason="x", outcomes=None).counts


def test_outcomes_are_arrays_of_seed_by_sample():
    found = outcomes(robust=["1010", "0011"]).array("robust")
    assert found.tolist() == [[True, False, True, False], [False, False, True, True]]
    r = result(outcomes=outcomes(robust=["1010", "0011"]))
    assert r.accuracy("robust").value == 0.5 and r.accuracy("clean").value == 1.0
    assert result(status="failed", reason="x", outcomes=None).accuracy("robust") is None
    assert (r.craft_seconds_per_image, r.defense_seconds_per_image) == (2.0, 0.5)

"""A record that contradicts itself is refused, whatever its digests say; one that was edited without them always is."""

from __future__ import annotations

import copy
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from planted_records import resealed, with_evidence

from robustbench_gan.base.errors import UsageError
from robustbench_gan.leaderboard import load_results, markdown
from robustbench_gan.leaderboard.convert import convert
from robustbench_gan.nouns.fields import packed, unpacked
from robustbench_gan.nouns.record import Result
from robustbench_gan.results.places import place
from robustbench_gan.results.stored import read_result, read_stored, write_text

COMMITTED = Path(__file__).parents[1] / "leaderboard"
Raw = dict[str, Any]


@pytest.fixture(scope="module")
def honest() -> Result:
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


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        ("10111", "10111"), ("1" * 256, "1" * 256), ("1" * 257, "257:" + "f" * 64 + "8"),
        ("0001" * 75, "300:" + "1" * 75), ("0" * 260 + "10", "262:" + "0" * 65 + "8"),
    ],
)  # fmt: skip
def test_many_bits_are_packed_four_to_a_digit(bits: str, text: str) -> None:
    assert packed(bits) == text and unpacked(text) == bits


@pytest.mark.parametrize(
    "text",
    [
        "257:" + "f" * 65, "257:" + "f" * 64, "257:" + "f" * 64 + "80", "0257:" + "f" * 64 + "8", "5:b8", "0:",
        "257:" + "F" * 64 + "8", "999999999999:ff", "257: " + "f" * 64 + "8", "1" * 257, "12",
    ],
)  # fmt: skip
def test_only_one_text_stands_for_some_bits(tmp_path: Path, honest: Result, text: str) -> None:
    raw = raw_of(honest)
    raw["outcomes"]["clean"][0] = text
    assert refused(tmp_path, resealed(raw))


def test_every_committed_record_comes_back_and_its_page_is_the_same_after_a_round(tmp_path: Path) -> None:
    results = load_results(COMMITTED, strict=True)
    for result in results:
        path = tmp_path / "results" / place(result.cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(write_text(result))
    assert load_results(tmp_path, strict=True) == results


def flipped(raw: Raw, name: str, to: str, where: Callable[[str, str, str], bool]) -> None:
    """Set the first bit of `name` for which clean, accepted and robust fulfil a condition."""
    rows = {
        key: [list(unpacked(text)) for text in raw["outcomes"][key]]
        for key in ("clean", "accepted", "robust")
    }
    at = next(i for i, bits in enumerate(zip(*(rows[k][0] for k in rows), strict=True)) if where(*bits))
    rows[name][0][at] = to
    raw["outcomes"][name] = [packed("".join(row)) for row in rows[name]]


def set_in(*keys: Any, value: Any) -> Callable[[Raw], None]:
    def change(raw: Raw) -> None:
        for key in keys[:-1]:
            raw = raw[key]
        raw[keys[-1]] = value(raw[keys[-1]]) if callable(value) else value

    return change


FORGED: dict[str, tuple[Callable[[Raw], None], str]] = {
    "one more image robust": (
        lambda raw: flipped(raw, "robust", "1", lambda c, a, r: (c, r) == ("1", "0")), "attacked.defended"
    ),
    "all robust": (lambda raw: set_in("outcomes", "robust", value=raw["outcomes"]["clean"])(raw), "attacked.defended"),
    "robust where never right": (
        lambda raw: flipped(raw, "robust", "1", lambda c, a, r: c == "0"), "was not right unperturbed"
    ),
    "clean where it was not": (lambda raw: flipped(raw, "clean", "1", lambda c, a, r: c == "0"), "controls.defended"),
    "lost though rejected": (
        lambda raw: flipped(raw, "accepted", "0", lambda c, a, r: (c, r) == ("1", "0")), "that was rejected"
    ),
    "rejected without detectors": (
        lambda raw: flipped(raw, "accepted", "0", lambda c, a, r: r == "1"), "without detectors"
    ),
    "a size outside": (set_in("outcomes", "size", 0, 3, value=0.31), "in a budget of linf 0.3"),
    "a size below 0": (set_in("outcomes", "size", 0, 3, value=-0.1), "not 0 or more"),
    "an endless size": (set_in("outcomes", "size", 0, 3, value="Infinity"), "not 0 or more"),
    "a smaller size": (set_in("outcomes", "size", 0, value=lambda row: [v / 2 for v in row]), "not that of the sizes"),
    "passes below 0": (set_in("outcomes", "forward", 0, value=-1), "passes that cannot be"),
    "passes without end": (set_in("outcomes", "forward", 0, value=10**400), "passes that cannot be"),
    "a better defense": (set_in("controls", "defended", value=0.99), "controls.defended"),
    "a better classifier": (set_in("controls", "classifier", value=0.9912), "no share of 200"),
    "an accuracy above 1": (set_in("controls", "classifier", value=1.5), r"outside [0, 1]"),
    "no controls": (set_in("controls", value={}), "missing"),
    "suspect without a flag": (set_in("status", value="suspect"), "suspect is what has some"),
    "failed with outcomes": (lambda raw: raw.update(status="failed", reason="x"), "has none"),
    "a reason of its own": (set_in("reason", value="it is so"), "not the ids"),
    "budgets of one radius": (set_in("budgets", value=[0.1]), "that has one radius"),
    "a flag of no catalogue": (
        set_in("flags", value=[{"id": "fine", "severity": "note", "message": "", "evidence": {}}]), "no flag"
    ),
    "a flag less": (set_in("flags", value=lambda flags: flags[1:]), "not those that the evidence raises"),
    "another share": (set_in("flags", 0, "evidence", "samples", value=2), "not those that the evidence raises"),
    "fewer zeros": (set_in("evidence", "zero_gradients", value=0), "not those that the evidence raises"),
    "zeros below none": (set_in("evidence", "zero_gradients", value=-1), "that cannot be"),
    "zeros of those that fell": (set_in("evidence", "zero_gradients", value=199), "199 samples of"),
    "gradients of all but one": (set_in("evidence", "differentiated", value=lambda v: v - 1), "by their passes"),
    "sure of more than are flat": (set_in("evidence", "sure_tiny", value=1), "1 samples of 0"),
    "trained after all": (set_in("evidence", "trained", value=True), "training"),
    "minimal in a ball": (set_in("evidence", "minimal", value=True), "within a finite radius"),
    "rejected by nothing": (set_in("evidence", "rejected", value=0), "detectors that there are not"),
    "stopped by nothing": (set_in("evidence", "stopped", value=1), "by no detector"),
    "too many digits": (set_in("evidence", "probe", "repeats_vary", value=1.23456e-5), "in four digits"),
    "all outside": (set_in("evidence", "shown", "outside", value=2.0), "a share or distance"),
    "a purifier of nothing": (
        lambda raw: raw["evidence"].update(purifies=False, shown={**raw["evidence"]["shown"], "spread": 0.5}),
        "purifies nothing",
    ),
    "evidence without checks": (set_in("checks", value=""), "or not at all"),
    "checks of words": (set_in("checks", value="mine"), "not a digest"),
    "gradients of nobody": (set_in("gradients", value=["best"]), "not those that"),
    "a substitute": (set_in("substitute", value={"accuracy": 0.5}), "of an attacker who is white-box"),
    "queries": (set_in("queries", value={"limit": 3}), "of an attacker who is white-box"),
    "shares of zero": (set_in("zero_gradients", value={"always": 0.5, "once": 0.25}), "not two shares"),
    "a share of no images": (set_in("zero_gradients", value={"always": 0.0, "once": 0.001}), "no shares of"),
    "l2 of too few values": (set_in("distortion", "l2", "max", value=1e3), "l2 above"),
    "weights of words": (set_in("weights", value={"classifier": "mine"}), "not the digest"),
    "time run backwards": (set_in("seconds", "crafting", value=-1.0), "no time"),
    "another cell": (set_in("cell", "eps", value=0.25), "the fingerprint is not"),
    "a number for a text": (set_in("fingerprint", value=3), "fingerprint"),
    "a whole number for a share": (set_in("seconds", "crafting", value=1), "not as this program writes it"),
    "a text for a number": (set_in("peak_memory_mb", value="12.5"), "not as this program writes it"),
    "a field too few": (lambda raw: raw.pop("hardware"), "hardware is not as"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_what_contradicts_itself_is_refused_under_digests_made_anew(
    tmp_path: Path, honest: Result, name: str
) -> None:
    change, message = FORGED[name]
    raw = raw_of(honest)
    change(raw)
    assert message in refused(tmp_path, resealed(raw))
    assert refused(tmp_path, raw)


def test_an_honest_record_is_read_and_one_with_another_digest_is_not(tmp_path: Path, honest: Result) -> None:
    raw = raw_of(honest)
    assert refused(tmp_path, raw) == "" and resealed(raw) == raw
    later = resealed(
        {**raw, "seconds": {"training": 1.0, "crafting": 2.0, "judging": 3.0}, "peak_memory_mb": 1.5}
    )
    assert later["digest"] == raw["digest"] and later["checksum"] != raw["checksum"]
    assert refused(tmp_path, later) == ""
    for seal in ("digest", "checksum"):
        assert f"its {seal} does not fit" in refused(tmp_path, {**raw, seal: "0" * 64})
        assert seal in refused(tmp_path, {key: value for key, value in raw.items() if key != seal})


def test_flags_of_other_checks_are_read_as_they_are_and_pointed_at(tmp_path: Path, honest: Result) -> None:
    """Of a catalogue that has changed since: neither the id nor the words need be of today."""
    raw = raw_of(honest)
    raw["checks"], raw["flags"][0]["message"] = "0123456789abcdef", "as it was said then."
    path = tmp_path / "results" / place(honest.cell)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(resealed(raw)))
    lines: list[str] = []
    (read,) = load_results(tmp_path, say=lines.append)
    assert read.flags[0].message == "as it was said then." and len(lines) == 1
    assert "1 results hold flags that another version derived" in lines[0]
    assert "another version derived" in markdown([read]) and "another version" not in markdown([honest])


def test_of_committed_robust_rows_none_is_believed_that_was_never_lost(tmp_path: Path) -> None:
    """The strongest lie, with digests made anew: every image that was right is called robust."""
    lost = [r for r in load_results(COMMITTED) if r.outcomes and r.outcomes.robust != r.outcomes.clean]
    assert len(lost) > 30
    for result in lost:
        raw = raw_of(result)
        raw["outcomes"]["robust"] = raw["outcomes"]["clean"]
        said = refused(tmp_path, resealed(raw))  # the latter where as many were won as lost
        assert "attacked.defended" in said or "0 examples won" in said


# every leaf of a record


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of everything in a record that can be changed on its own."""
    yield place
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from leaves(one, (*place, key))


def variants(value: Any) -> list[Any]:
    """Other values for a leaf: near ones, absurd ones, other types."""
    other: list[Any] = [None, "x", 7, -1, 1e308, True, [], {}, "\x1b[31m\u202e", "Infinity", "NaN", 10**30]
    if isinstance(value, bool):
        other += [not value]
    elif isinstance(value, int | float):
        other += [value + 1, -value, value * 1.001, float(value), str(value), value / 2]
    elif isinstance(value, str):
        other += [value + "0", value[:-1], value.upper(), value[::-1], value.replace("1", "0"), value + " "]
    elif isinstance(value, list):
        other += [value[::-1], value[1:], value * 2]
    elif isinstance(value, dict):
        other += [{**value, "x": 1}, dict(list(value.items())[1:])]
    return [one for one in other if type(one) is not type(value) or one != value]


def mutations(raw: Raw) -> Iterator[tuple[tuple[Any, ...], Raw]]:
    """A record with one thing changed, or gone."""
    for place_ in leaves(raw):
        if not place_:
            continue
        *way, last = place_
        at = raw
        for key in way:
            at = at[key]
        for value in variants(at[last]):
            changed = copy.deepcopy(raw)
            set_in(*place_, value=lambda _, value=value: value)(changed)
            yield place_, changed
        changed = copy.deepcopy(raw)
        inner = changed
        for key in way:
            inner = inner[key]
        del inner[last]
        yield place_, changed


def same_numbers(one: Result, other: Result) -> bool:
    """Same status and clean accuracy; the robust one apart by no more than images that were wrong unperturbed.

    What these answer to their examples is not in a record, and the accuracy on the examples holds it.
    """
    clean, robust = ([r.accuracy(name) for r in (one, other)] for name in ("clean", "robust"))  # type: ignore[arg-type]
    if not (clean[0] and clean[1] and robust[0] and robust[1]):
        return one.status == other.status and clean == robust
    moved = abs(robust[0].value - robust[1].value)
    return one.status == other.status and clean[0] == clean[1] and moved <= 1 - clean[0].value + 1e-9


def tried(tmp_path: Path, results: list[Result], every: int, seal: bool) -> tuple[Counter[str], Counter[str]]:
    """What becomes of one mutation in `every`, and, of those that pass and change the page, where they were made.

    None that passes changes the numbers: left are the clock, the machine, passes, and bits that change places.
    """
    told: Counter[str] = Counter()
    where: Counter[str] = Counter()
    draw = random.Random(0)
    for result in results:
        page = markdown([result])
        for place_, changed in mutations(raw_of(result)):
            if draw.randrange(every):
                continue
            if refused(tmp_path, resealed(changed) if seal else changed):
                told["refused"] += 1
                continue
            read = read_result(tmp_path / "record.json")
            assert same_numbers(read, result), place_
            same = markdown([read]) == page
            told["read, same page" if same else "read, other page"] += 1
            where[".".join(str(key) for key in place_ if not isinstance(key, int))] += not same
    return told, where


def test_a_sample_of_single_mutations_never_passes_without_new_digests(
    tmp_path: Path, honest: Result
) -> None:
    told, _ = tried(tmp_path, [honest], every=300, seal=False)
    assert set(told) == {"refused"} and told["refused"] > 25


def test_a_sample_of_mutations_with_new_digests_changes_only_what_nothing_contradicts(
    tmp_path: Path, honest: Result
) -> None:
    told, _ = tried(tmp_path, [honest], every=300, seal=True)
    assert told["refused"] > 0.85 * told.total()


@pytest.mark.nightly
def test_no_single_mutation_of_any_leaf_passes_without_new_digests(tmp_path: Path) -> None:
    results = load_results(COMMITTED)
    some = [next(r for r in results if r.status == status) for status in ("ok", "not applicable", "not run")]
    told, _ = tried(tmp_path, some, every=1, seal=False)
    print(dict(told))
    assert set(told) == {"refused"} and told["refused"] > 10_000
    told, where = tried(tmp_path, some, every=1, seal=True)
    print(dict(told), dict(where))
    assert told["refused"] > 0.9 * told.total()


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

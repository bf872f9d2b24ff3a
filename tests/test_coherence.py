"""A record that contradicts itself is refused, whatever its digests say; one that was edited without them always is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from honest_record import COMMITTED, Raw, honest_record, raw_of, refused, set_in  # noqa: F401 - fixtures
from planted_records import resealed

from robustbench_gan.leaderboard import load_results, markdown
from robustbench_gan.nouns.fields import packed, unpacked
from robustbench_gan.nouns.record import Result
from robustbench_gan.results.places import place
from robustbench_gan.results.stored import write_text


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

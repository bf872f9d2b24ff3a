"""No single mutation of any leaf of a record passes unseen."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from honest_record import COMMITTED, Raw, honest_record, raw_of, refused, set_in  # noqa: F401 - fixtures
from planted_records import resealed

from robustbench_gan.leaderboard import load_results, markdown
from robustbench_gan.nouns.record import Result
from robustbench_gan.results.stored import read_result


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

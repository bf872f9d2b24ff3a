"""Time is never an answer: what may be quick is tried, what is surely long is refused, and neither changes a number."""

from __future__ import annotations

import multiprocessing
import time
from types import SimpleNamespace

import planted_clocks
import pytest
from planted_plugins import also_installed, cell, installed, judged, planned, workshop  # noqa: F401 - fixtures

from robustbench_gan.cell import estimate
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.estimate import _seconds
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.engine import executors
from robustbench_gan.engine.execute import finished
from robustbench_gan.engine.plan import result_path
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.results.stored import write_text

MOMENT = Settings(max_cell_minutes=0.3 / 60)


clocks = also_installed("clocks", planted_clocks.ENTRY_POINTS)


def test_what_may_be_quick_is_tried_and_its_number_is_that_without_a_limit(shop, tmp_path):
    (item,) = planned(shop, attacks="brief")
    limited = evaluate_cell(item, shop, MOMENT)
    assert limited.status == "ok" and limited.estimate_seconds > 3600  # by its bound a cell of years
    assert judged(limited) == judged(cell(workshop(tmp_path / "other"), attacks="brief"))


@pytest.mark.parametrize("attack", ["endless", "stubborn"])
def test_what_turns_out_to_be_long_is_stopped_and_has_no_number(shop, attack):
    (item,) = planned(shop, attacks=attack)
    started = time.monotonic()
    result = evaluate_cell(item, shop, MOMENT)
    assert time.monotonic() - started < 20
    assert (result.status, result.outcomes) == ("not run", None)
    assert result.reason == "stopped after 0.005 minutes of crafting, the limit"


@pytest.mark.parametrize("stubborn", ["false", "true"])
def test_the_limit_holds_for_the_training_of_an_attack(shop, stubborn):
    first, second = planned(shop, attacks=f"learns:stubborn={stubborn}", eps=[0.1, 0.2])[:2]
    started = time.monotonic()
    result = evaluate_cell(first, shop, MOMENT)
    assert (result.status, result.outcomes) == ("not run", None)
    assert result.reason == "stopped after 0.005 minutes of training the attack, the limit"
    assert evaluate_cell(second, shop, MOMENT).status == "not run" and time.monotonic() - started < 20
    assert not [path for path in shop.store if path.name.startswith("attack")]


def test_a_trained_attack_from_the_store_takes_no_time_to_train(shop, tmp_path):
    (item,) = planned(shop, attacks="learns:steps=1")
    assert evaluate_cell(item, shop, Settings()).status == "ok"
    again = workshop(tmp_path)
    assert again.store.root == shop.store.root
    deadline = Settings(max_cell_minutes=1e-5)
    result = evaluate_cell(planned(again, attacks="learns:steps=1")[0], again, deadline)
    assert "training" not in result.reason


def test_a_defense_that_says_so_has_not_run_out_of_time(shop):
    (item,) = planned(shop, defenses="late")
    result = evaluate_cell(item, shop, Settings(max_cell_minutes=10))
    assert (result.status, result.reason) == ("failed", "OutOfTime: crafting")


def test_silence_has_a_limit_where_one_is_given():
    ours, theirs = multiprocessing.Pipe()
    with pytest.raises(executors._Silent):
        executors._receive(ours, SimpleNamespace(exitcode=None), 0.1)
    executors._send(theirs, "made", 1)
    assert executors._receive(ours, SimpleNamespace(exitcode=None), 0.1) == ["made", 1]


@pytest.mark.nightly
def test_a_fit_that_hangs_is_ended_by_the_timeout_of_a_cell(shop, monkeypatch):
    monkeypatch.setattr(executors, "SILENT", 0.1)
    first, second = planned(shop, defenses="hangs", attacks=["fgsm", "noise"])
    result = executors.evaluate_apart(first, shop, Settings(), seconds=6)
    assert (
        result.status == "failed" and "killed after 6 s in which the making of its defense" in result.reason
    )
    started = time.monotonic()
    assert executors.evaluate_apart(second, shop, Settings(), seconds=6).reason == result.reason
    assert time.monotonic() - started < 1


def test_examples_that_cells_share_are_not_tried_twice_in_vain(shop):
    first, second = planned(shop, attacks="endless", threats="gray-box", defenses=["noisy", "detached"])
    assert evaluate_cell(first, shop, MOMENT).status == "not run"
    started = time.monotonic()
    assert evaluate_cell(second, shop, MOMENT).reason.startswith("stopped after")
    assert time.monotonic() - started < 0.3


def test_what_is_surely_long_is_refused_at_once(shop):
    (item,) = planned(shop, attacks="pgd:steps=1000000", defenses="noisy")  # random, so no sample ends early
    result = evaluate_cell(item, shop, Settings(max_cell_minutes=1))
    assert result.status == "not run" and result.seconds.crafting == 0
    assert result.reason.startswith("estimated at ") and result.estimate_seconds > 60


def test_a_stored_not_run_is_estimated_anew(shop, tmp_path):
    (item,) = planned(shop, attacks="pgd:steps=2")
    tight = evaluate_cell(item, shop, Settings(max_cell_minutes=1e-9))
    path = result_path(tmp_path, item)
    path.parent.mkdir(parents=True)
    path.write_text(write_text(tight))
    assert tight.status == "not run" and finished(tmp_path, item) is None


def test_one_cold_pass_is_not_what_a_pass_takes(monkeypatch):
    waits = iter([1.0, *[0.001] * 2, 0.05, *[0.001] * 20])
    timing = _seconds(lambda: time.sleep(next(waits)))
    assert 0.001 <= timing.fastest <= timing.usual < 0.02  # neither the first nor the slow one between
    asked = []
    monkeypatch.setattr(estimate, "LONG", 0.01)
    assert _seconds(lambda: (asked.append(None), time.sleep(0.02))).fastest >= 0.02 and len(asked) == 1


def test_the_bound_of_jsma_knows_the_radius():
    jsma = registry.load("attacks", "jsma")
    defaults = registry.bind(Spec("jsma"), jsma, "attack")
    bounds = [info_of(jsma).cost(defaults, "l0", 10, 784, eps)[0] for eps in (20, 100, float("inf"))]
    assert bounds == [1 + 9 * 11, 1 + 9 * 51, 1 + 9 * 393]  # two values a step, nine wrong classes, one look


@pytest.mark.parametrize("name", registry.names("attacks"))
def test_no_attack_takes_fewer_passes_at_most_than_at_least(name):
    info = info_of(registry.load("attacks", name))
    defaults = registry.bind(Spec(name), registry.load("attacks", name), "attack")
    for norm in info.norms:
        assert 0 <= info.at_least(defaults, norm, 10, 784) <= max(1, *info.cost(defaults, norm, 10, 784))

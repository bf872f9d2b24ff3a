"""A dry run tells what a matrix will take on one screen, trains nothing and leaves the store alone."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from robustbench_gan.cell.estimate import Estimate, Timing
from robustbench_gan.cli.dry_run import minutes, summary
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.engine import quick_clock
from robustbench_gan.engine.forecast import Forecast, Trained, forecast
from robustbench_gan.engine.layout import lay_out
from robustbench_gan.engine.matrix import Matrix, preset_text, read_matrix
from robustbench_gan.engine.plan import steps_of
from robustbench_gan.engine.quick_clock import QuickClock, Unknown
from robustbench_gan.engine.untrained import Trainings, beside
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.outcome import Output
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.training.checkpoint import Checkpoint
from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import Workshop

DIGITS = {"datasets": ["control-digits"], "classifiers": ["small-cnn"]}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """What a workshop remembers that has drawn its data set."""
    shop = Workshop(Store(tmp_path_factory.mktemp("store"), zoo=None))
    lay_out(Matrix(**DIGITS), shop)
    return shop.memory


@pytest.fixture
def shop(tmp_path, drawn):
    return Workshop(Store(tmp_path / "store", zoo=None), memory=dict(drawn))


def plan(shop, **asked):
    matrix = Matrix(**{**DIGITS, **asked})
    return matrix, lay_out(matrix, shop)


def every_cell(planned, seconds=(60.0, 120.0)):
    steps = tuple(Trained(step, False, 60.0) for step in steps_of(planned) if step.kind != "cell")
    cells = {item.cell.fingerprint: Estimate(*seconds) for item in planned if not item.reason}
    return Forecast(steps, frozenset(), cells, {})


def test_the_summary_counts_cells_by_defense_and_threat_and_refusals_by_reason(shop):
    matrix, planned = plan(
        shop, defenses=["none", "jpeg", "magnet"], attacks=["fgsm", "noise", "bpda"],
        threats=["white-box", "gray-box", "seed-known"], max_cell_minutes=1.5,
    )  # fmt: skip
    assert list(summary(matrix, planned, every_cell(planned), 80)) == [
        "matrix: 27 cells: 12 to run, 0 done already, 15 not applicable",
        "              white-  gray-",
        "cells to run     box    box",
        "none               2      -",
        "jpeg               3      2",
        "magnet             3      2",
        "trained once and shared",
        "  classifier  1 to train (1.0 min)",
        "    control-digits / small-cnn",
        "  defense     3 to train (3.0 min)",
        "    control-digits / small-cnn / none",
        "    control-digits / small-cnn / jpeg",
        "    control-digits / small-cnn / magnet",
        "not applicable",
        "     9  the defense is not random: white-box already knows all there is",
        "     3  the defense is its classifier: there is nothing for a gray-box attacker…",
        "     2  the attack is defined by the gradient 'bpda' of the defended system",
        "     1  the defense has no purifier to go through",
        "dearest cells, minutes at least and at most",
        "     1.0       1.5  none / white-box / fgsm",
        "     1.0       1.5  none / white-box / noise",
        "     1.0       1.5  jpeg / white-box / fgsm",
        "     1.0       1.5  jpeg / white-box / noise",
        "     1.0       1.5  jpeg / white-box / bpda",
        "     1.0       1.5  jpeg / gray-box / fgsm",
        "     1.0       1.5  jpeg / gray-box / noise",
        "     1.0       1.5  magnet / white-box / fgsm",
        "     1.0       1.5  magnet / white-box / noise",
        "     1.0       1.5  magnet / white-box / bpda",
        "0 cells sure to take more than 1.5 minutes are not run; others are stopped there",
        "estimated in all: 16 to 22 minutes",
        "by passes timed here times those that attacks declare, and by recorded times",
    ]


def test_thousands_of_cells_fit_a_screen(shop):
    fewer = {"datasets": ["control-digits"], "samples": 50, "attacks": ["fgsm", "bpda", "square"]}
    matrix = read_matrix(preset_text("standard"), "standard", fewer)
    planned = lay_out(matrix, shop)
    found = every_cell(planned, (1e6, 1e9))
    lines = list(summary(matrix, planned, found, 80))
    assert len(planned) == 13 * 6 * 3 * 3 and len(lines) <= 45 and max(map(len, lines)) <= 80
    assert f"{sum(not item.reason for item in planned)} to run" in lines[0]
    counts = [line.split()[-6:] for line in lines[4:17]]
    assert sum(int(count) for row in counts for count in row if count != "-") == len(found.cells)


def test_many_settings_of_one_defense_share_a_line_and_long_threat_models_stand_below(shop):
    defenses = [f"jpeg:quality={quality}" for quality in range(40, 60)]
    threats = [f"white-box:gradient={name},draws={n}" for name in ("full", "bpda", "cut") for n in (1, 2, 3)]
    matrix, planned = plan(shop, defenses=defenses, threats=threats)
    lines = list(summary(matrix, planned, every_cell(planned), 80))
    (row,) = [line for line in lines if line.startswith("jpeg, 20 settings")]
    assert row.split()[3:] == ["20"] * 9 and max(map(len, lines)) <= 80
    assert "  (9) white-box (draws=3, gradient=cut)" in lines


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0.0"), (2, "<0.1"), (90, "1.5"), (597, "10"), (600_000, "10,000")]
)
def test_minutes(seconds, shown):
    assert minutes(seconds) == shown


def test_a_cell_takes_the_passes_of_its_attack_and_of_its_judge(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(QuickClock, "timed", lambda self, run, kind: Timing(2.0, 2.0))
    spec = "pgd:steps=20"
    _, planned = plan(shop, attacks=[spec], samples=250 - 150, judge_seeds=3, goals=["untargeted", "all"])
    function, parameters = registry.resolve("attacks", Spec.of(spec))
    passes, _ = info_of(function).cost(parameters, "linf", 10, 784, 0.3)
    found = forecast(planned, shop, tmp_path)
    one, every = (found.cells[item.cell.fingerprint] for item in planned)
    assert one == Estimate(3 * 2.0 + 2.0, 3 * 2.0 + passes * 2.0)  # won at the first pass, or after the last
    assert every.most == 3 * 2.0 + 9 * passes * 2.0 + 9 * 2.0  # nine wrong classes, and a choice among them
    training = sum(step.seconds or 0 for step in found.steps)
    assert found.total() == Estimate(one.least + every.least + training, one.most + every.most + training)
    assert found.total(limit=7.0).most == training + min(one.most, 7.0) * (one.least <= 7.0)


def test_untrained_systems_are_timed_and_neither_trained_nor_written(shop, tmp_path):
    defenses = ["adversarial-training", "magnet", "distillation", "ape-gan"]
    _, planned = plan(shop, defenses=defenses, threats=["white-box", "black-box"], samples=10)
    started = time.monotonic()
    found = forecast(planned, shop, tmp_path / "out")
    assert time.monotonic() - started < 20 and not list(tmp_path.iterdir())
    assert not found.unknown and all(one.most > 0 for one in found.cells.values())
    assert [(one.step.kind, one.stored, one.seconds) for one in found.steps] == [
        ("classifier", False, None), *[("defense", False, None), ("substitute", False, None)] * 4,
    ]  # fmt: skip
    assert not [key for key in shop.memory if key[0] in ("classifier", "defense", "substitute")]


def test_an_unfinished_training_is_still_there_afterwards(shop):
    names = "control-digits", "small-cnn", Spec.parse("adversarial-training:epochs=1")
    names = (*names[:2], lay_out(Matrix(**DIGITS, defenses=[str(names[2])]), shop)[0].cell.defense)
    looked = beside(shop)
    looked.defense(*names)
    ((kind, recipe),) = [one for one in looked.store.absent.values() if one[0] == "adversarial-training"]
    Checkpoint.of(shop.store, kind, recipe).save({"x": torch.zeros(1)}, {})
    path = Checkpoint.of(shop.store, kind, recipe).path
    assert path.exists()
    beside(shop).defense(*names)
    assert path.exists()


def test_the_seconds_of_a_training_are_those_of_its_like(tmp_path):
    store = Store(tmp_path, zoo=None)
    recipe = {"data": "abc", "seed": 0, "on": "classifier-0123456789abcdef", "steps": 3}
    store.fetch("net", recipe, lambda: ({"w": torch.zeros(1)}, {}))
    known = Trainings(store, {"abc": 100, "same size": 100, "larger": 200})
    seconds = known.expected("net", recipe)
    assert seconds is not None and 0 <= seconds < 1
    other = {**recipe, "seed": 5, "data": "same size", "on": "classifier-fedcba9876543210"}
    assert known.expected("net", other) == seconds
    for changed in ({"steps": 4}, {"data": "larger"}, {"data": "unknown"}):
        assert known.expected("net", {**recipe, **changed}) is None
    assert known.expected("other", recipe) is None


class Iterates:
    """A system of 200 operations that take half a millisecond for ten images or more, and next to nothing for one."""

    def __call__(self, x, seed):
        for _ in range(200):
            with torch.no_grad():
                x.detach()
            until = time.thread_time() + (0.0005 if len(x) >= 10 else 0)
            x = x * 1
            while time.thread_time() < until:
                pass
        return Output(x.flatten(1)[:, :10], x.new_zeros(len(x), 0))


def test_a_long_pass_is_cut_short_and_the_rest_counted(shop, monkeypatch):
    monkeypatch.setattr(quick_clock, "system_of", lambda run, kind: Iterates())
    monkeypatch.setattr(quick_clock, "MOMENT", 0.02)
    cell = SimpleNamespace(dataset="control-digits", classifier="any", defense="any")
    x, y = torch.rand(100, 1, 8, 8), torch.zeros(100, dtype=torch.int64)
    run = SimpleNamespace(workshop=shop, cell=cell, x=x, y=y)
    clock = QuickClock()
    assert 0.07 < clock.timed(run, "forward").usual < 0.3  # 0.1, of which 0.02 were waited for
    assert clock.spent < 0.07 and torch.is_grad_enabled()
    assert clock.timed(run, "forward") == clock.timed(run, "forward")
    monkeypatch.setattr(quick_clock, "PATIENCE", 0.0)
    with pytest.raises(Unknown, match="not timed"):
        clock.timed(run, "bare answer")

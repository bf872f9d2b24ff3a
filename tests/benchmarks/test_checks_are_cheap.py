"""What red flags, and the guards around what belongs to others, cost of the cells they watch: a twentieth each.

The cells that attack one system share a probe of it, as in any run; a lone one pays for all of it. The dearest to check
is one of FGSM alone on the smallest network here, which takes 30 ms. Processor time, which a busy machine hardly bends.
"""

from __future__ import annotations

import statistics
import time

import pytest
from real import store_of

import robustbench_gan.cell.evaluate as engine
from robustbench_gan.cell import context, craft
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.cell.purified import Watched
from robustbench_gan.cell.repeated import Tape
from robustbench_gan.contracts.view import View
from robustbench_gan.engine.layout import lay_out
from robustbench_gan.engine.matrix import Matrix
from robustbench_gan.flags.across import across
from robustbench_gan.guards import guard
from robustbench_gan.training.workshop import Workshop

BOUND = 0.05
ROUNDS = 9
SHORT = (
    "defense-gan:width=32,iterations=20,restarts=2,gan_steps=20,critic_steps=1"  # the time of a trained one
)
WATCHES = {
    "red flags": (
        (engine, "probe"), (engine, "evidence_of"), (engine, "with_flags"), (View, "_watch"), (Watched, "_note"), (Watched, "facts"),
        (Tape, "note"), (craft, "repeats"),
    ),
    "guards": (
        (engine, "Surroundings"), (guard, "_settle"), (context, "Kept"), (context, "Attributes"),
        (Workshop, "put_back"),
    ),
}  # fmt: skip
CELLS = {
    "none-alone": ("none", "full", ["fgsm"]),
    "bit-depth-alone": ("bit-depth", "bpda", ["fgsm"]),
    "none": ("none", "full", ["fgsm", "pgd:steps=40"]),
    "bit-depth": ("bit-depth", "bpda", ["fgsm", "pgd:steps=40"]),
    "magnet": ("magnet:epochs=1", "full", ["fgsm", "pgd:steps=40"]),
    "defense-gan": (SHORT, "bpda", ["fgsm"]),  # its cheapest gradient
}


class Clock:
    """Adds up the time of the functions it is put around."""

    def __init__(self) -> None:
        self.spent = 0.0

    def around(self, function):
        def timed(*given, **named):
            start = time.process_time()
            try:
                return function(*given, **named)
            finally:
                self.spent += time.process_time() - start

        return timed


@pytest.fixture(scope="module")
def shop(trained_store):
    return Workshop(store_of(trained_store))


def plan(shop, defense, gradient, attacks):
    asked = {"classifiers": ["small-cnn"], "defenses": [defense], "attacks": attacks, "samples": 200}
    return lay_out(Matrix.model_validate({"datasets": ["mnist"], "gradient": gradient, **asked}), shop)


@pytest.mark.parametrize("watch", WATCHES)
@pytest.mark.parametrize("name", CELLS)
def test_the_checks_take_a_twentieth_of_the_cells_at_most(shop, monkeypatch, name, watch):
    clock, shares = Clock(), []
    for place, what in WATCHES[watch]:
        monkeypatch.setattr(place, what, clock.around(getattr(place, what)))
    cells = plan(shop, *CELLS[name])
    for turn in range(ROUNDS + 1):
        for key in [k for k in shop.memory if k[0] in ("probe", "judged", "shown", "answers")]:
            del shop.memory[key]
        clock.spent, start = 0.0, time.process_time()
        for planned in cells:
            assert evaluate_cell(planned, shop, Settings()).outcomes is not None
        if turn:  # the first one trains and warms up
            shares.append(clock.spent / (time.process_time() - start))
    share = statistics.median(shares)
    print(f"\n{name}, {len(cells)} cells: {watch} take {share:.2%} of their time")
    assert share <= BOUND


def test_the_flags_across_cells_take_a_twentieth_of_the_run_at_most(shop):
    cells = [p for name in ("none", "bit-depth") for p in plan(shop, *CELLS[name])]
    results = [evaluate_cell(p, shop, Settings()) for p in cells]
    worked = sum(r.seconds.crafting + r.seconds.judging for r in results)
    across(results)  # imports scipy
    start = time.process_time()
    across(results)
    share = (time.process_time() - start) / worked
    print(f"\nflags across {len(cells)} cells take {share:.2%} of their time")
    assert share <= BOUND

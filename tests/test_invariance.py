"""What must not change a result: the batch size, the order of cells, another process at the same store."""

from __future__ import annotations

import subprocess
import sys

import pytest
from planted_plugins import environment, installed, judged, planned, workshop  # noqa: F401

from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.leaderboard import load_results

# 70 samples are two micro-batches, the second padded; early stopping repacks them as samples are won.
TINY_GAN = "defense-gan:width=2,latent=4,iterations=3,restarts=2,gan_steps=2,gan_batch=4"
SMALL = {"samples": 50, "judge_seeds": 2, "eps": 0.1, "classifiers": "bent", "datasets": "grey:tests=240"}
CELLS = {
    "pgd with early stopping": {"attacks": "pgd:steps=6,restarts=3", "samples": 70},
    "pgd in l2": {"attacks": "pgd:steps=4", "norm": "l2", "eps": 0.6, "samples": 70},
    "random defense under eot": {"defenses": "noisy", "attacks": "pgd:steps=2", "eot": 2},
    "seed known": {"defenses": "noisy", "attacks": "pgd:steps=4,restarts=2", "threats": "seed-known"},
    "all targets": {"attacks": "bim:steps=3", "goals": "all"},
    "noise": {"attacks": "noise", "norm": "l1", "eps": 1.0},
    "rand-fgsm": {"attacks": "rand-fgsm", "defenses": "noisy"},
}


def outcomes(root, batch_size, asked):
    """Per-sample outcomes, sizes and passes, in a workshop of its own."""
    where = workshop(root)
    return [
        judged(evaluate_cell(item, where, Settings(batch_size)))
        for item in planned(where, **{**SMALL, **asked})
    ]


@pytest.mark.parametrize("name", CELLS)
def test_the_batch_size_cannot_change_a_result(tmp_path, name):
    whole = outcomes(tmp_path, 200, CELLS[name])
    assert outcomes(tmp_path, 7, CELLS[name]) == whole
    assert "1" in "".join(whole[0].clean)


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["auto", "full"])
def test_the_batch_size_cannot_change_what_defense_gan_answers(tmp_path, gradient):
    asked = {"defenses": TINY_GAN, "datasets": "grey:side=28", "attacks": "pgd:steps=2", "gradient": gradient,
             "eps": 0.3, "eot": 2, "samples": 12}  # fmt: skip
    assert outcomes(tmp_path, 200, asked) == outcomes(tmp_path, 7, asked)


def test_early_stopping_happens_and_saves_passes(tmp_path):
    (result,) = outcomes(tmp_path, 200, CELLS["pgd with early stopping"])
    lost = [p for p, robust in zip(result.forward, result.robust[0], strict=True) if robust == "1"]
    won = [p for p, clean, robust in zip(result.forward, result.clean[0], result.robust[0], strict=True)
           if clean == "1" and robust == "0"]  # fmt: skip
    assert set(lost) == {7 * 3} and min(won) < 7 * 3


def test_the_order_of_cells_cannot_change_a_result(tmp_path):
    asked = {**SMALL, "defenses": ["none", "noisy"], "attacks": ["noise", "fgsm", "pgd:steps=2"],
             "threats": ["white-box", "seed-known", "black-box:model=quick,rounds=2"]}  # fmt: skip

    def run(root, reverse):
        where = workshop(root)
        cells = planned(where, **asked)
        results = [evaluate_cell(item, where, Settings()) for item in (cells[::-1] if reverse else cells)]
        return {r.fingerprint: (r.status, r.outcomes, r.weights, r.flags) for r in results}

    forwards, backwards = run(tmp_path / "a", False), run(tmp_path / "b", True)
    assert forwards == backwards
    assert sum(outcome is not None for _, outcome, _, _ in forwards.values()) > 10


@pytest.mark.slow
def test_two_processes_at_the_same_store_give_the_same_results(tmp_path, installed):  # noqa: F811
    def start(out, *more):
        command = [sys.executable, "-c", "from robustbench_gan.cli import main; main()", "evaluate",
                   "--dataset", "grey", "--classifier", "quick", "--defense", "none", "--defense", "noisy",
                   "--attack", "noise", "--attack", "pgd:steps=3", "--samples", "20", "--eps", "0.1", "--judge-seeds", "2",
                   "--threat", "white-box", "--threat", "black-box:model=quick,rounds=2",
                   "--out", str(tmp_path / out), *more]  # fmt: skip
        env = environment(installed, tmp_path / "cache")
        return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    runs = [start("one"), start("two", "--batch-size", "7")]
    errors = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    one, two = (
        {r.fingerprint: (r.outcomes, r.weights) for r in load_results(tmp_path / n)} for n in ("one", "two")
    )
    assert one == two and len(one) == 8
    assert not list((tmp_path / "cache").rglob(".tmp-*"))

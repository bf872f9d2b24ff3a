"""Trained attacks in a plan, in `run_attack` and on progress bars."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from planted import Linear, images
from planted_plugins import cell, installed, judged, planned, workshop  # noqa: F401 - fixtures
from trained_shop import BLACK, SCALE, fits, trained_plugins, trained_shop  # noqa: F401 - fixtures

from robustbench_gan.api.run_attack import run_attack
from robustbench_gan.base import progress
from robustbench_gan.base.errors import UsageError
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.contracts.attacks import TrainedAttack
from robustbench_gan.engine.execute import execute
from robustbench_gan.engine.plan import steps_of
from robustbench_gan.training.store import Store

# ---- the plan


def kinds(shop, **asked):
    return Counter(step.kind for step in steps_of(planned(shop, **asked)))


def test_a_training_is_a_shared_step_of_its_own(shop):
    asked = {"attacks": ["shove", "shove-any", "fgsm"], "eps": 0.2}
    assert kinds(shop, **asked) == {"classifier": 1, "defense": 1, "attack": 2, "cell": 3}
    gray = {**asked, "attacks": "shove", "defenses": ["noisy", "lock"], "threats": "gray-box"}
    assert kinds(shop, **gray)["attack"] == 1  # one generator for both
    assert kinds(shop, **{**gray, "threats": "white-box"})["attack"] == 2
    goals = {**asked, "goals": ["untargeted", "random"]}
    assert kinds(shop, **{**goals, "attacks": "shove-any"})["attack"] == 1
    assert kinds(shop, **{**goals, "attacks": "shove"})["attack"] == 2


def test_substitute_and_training_stand_in_order(shop):
    def order(protocol):
        return [s.kind for s in steps_of(planned(shop, **SCALE, threats=BLACK + protocol))]

    assert order("static") == ["classifier", "defense", "substitute", "attack", "cell"]
    assert order("dynamic") == ["classifier", "defense", "attack", "cell"]


def test_the_step_trains_and_the_cell_finds_it_done(shop, tmp_path):
    seen = []
    execute(
        planned(shop, **SCALE), shop, Settings(), tmp_path / "out",
        on_step=lambda step: seen.append((step.kind, fits())), on_result=lambda *_: None, run_cell=evaluate_cell,
    )  # fmt: skip
    assert seen == [("classifier", 0), ("defense", 0), ("attack", 0), ("cell", 1)] and fits() == 1


# ---- without matrix and store


def test_run_attack_trains_on_the_images_given():
    model, x, y = Linear().eval(), images(30), Linear()(images(30)).argmax(dim=1)
    more = images(64, seed=8)
    labels = model(more).argmax(dim=1)
    found = run_attack("shove", model, x, y, epsilons=[0.05, 0.4], train=(more, labels))
    assert found.success.shape == (2, 30) and found.success[1].sum() >= found.success[0].sum()
    assert not found.backward.any()  # its training is not charged to the images
    targeted = run_attack("shove", model, x, y, epsilons=[0.4], targets=(y + 1) % 3, train=(more, labels))
    assert targeted.success.double().mean() > 0.4


def test_run_attack_says_what_is_missing_and_what_is_too_much():
    model, x, y = Linear().eval(), images(4), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(UsageError, match="must first be trained: give train="):
        run_attack("shove", model, x, y, epsilons=[0.1])
    with pytest.raises(UsageError, match="fgsm is not trained: leave train out"):
        run_attack("fgsm", model, x, y, epsilons=[0.1], train=(x, y))
    with pytest.raises(UsageError, match="pixels must be in"):
        run_attack("shove", model, x, y, epsilons=[0.1], train=(x + 2, y))


def test_progress_is_reported_while_a_real_one_trains(tmp_path):
    seen = Counter()

    class Watch:
        def task(self, description, total):
            from contextlib import contextmanager

            @contextmanager
            def shown():
                yield lambda amount: seen.update({description: amount})

            return shown()

    with progress.reporting_to(Watch()):
        cell(workshop(tmp_path), attacks="ai-gan:steps=3,batch_size=10,attacker_steps=1", eps=0.1)
    assert seen["training AIGAN"] == 3


@pytest.mark.parametrize(
    "attack", ["advgan:steps=2,batch_size=20", "ai-gan:steps=2,batch_size=20,attacker_steps=1"]
)
def test_neither_batch_size_nor_neighbours_change_an_example(shop, attack):
    asked = {"attacks": attack, "eps": 0.2, "goals": "random"}
    whole = judged(cell(shop, **asked))
    assert judged(cell(shop, **asked, batch_size=3)) == whole
    few = judged(cell(shop, **asked, samples=5))
    assert few.robust[0] == whole.robust[0][:5] and few.size[0] == whole.size[0][:5]


def test_the_store_holds_one_file_a_training(shop, tmp_path):
    cell(shop, **SCALE)
    names = [path.name for path in Store(tmp_path / "artifacts")]
    assert sum(name.startswith("attack-") for name in names) == 1


def test_the_interface_asks_for_both_methods():
    class Unfit(TrainedAttack):
        def forward(self, view, x, goal, budget, seed):
            return x

    for unfinished in (TrainedAttack, Unfit):
        with pytest.raises(TypeError, match="fit"):
            unfinished((1, 4, 4), 3)

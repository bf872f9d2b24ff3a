"""Attacks that must first be trained: through which system, on whose images, how often, for which goals."""

from __future__ import annotations

import planted_trained
import pytest
import torch
from planted import Linear, images, seeds
from planted_plugins import cell, installed, judged, planned, workshop  # noqa: F401 - fixtures
from trained_shop import DATA, SCALE, N, fits, trained_plugins, trained_shop  # noqa: F401 - fixtures

from robustbench_gan.cell.context import Settings
from robustbench_gan.contracts.attacks import Fitted, TrainedAttack, info_of
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal

# ---- what it is, and what it is trained on


def test_a_registered_class_is_a_trained_attack_and_a_function_is_not():
    assert info_of(planted_trained.Shove).trained
    from rbg_attacks.pgd import pgd

    assert not info_of(pgd).trained


def test_white_box_trains_through_the_defended_system_and_crafts_without_a_gradient(shop):
    result = cell(shop, **SCALE, defenses="noisy", gradient="full", eot=3)
    assert result.status == "ok" and result.gradients == ["full"]
    train = len(DATA.train)
    assert result.trained == {
        "on": "defended", "gradient": "full", "generators": 1, "images": train, "steps": 2,
        "forward": 2 * 3 * train, "backward": 2 * 3 * train,
    }  # fmt: skip
    assert judged(result).backward == judged(result).forward == [0] * N
    assert result.weights.keys() == {"classifier", "attack"} and result.seconds.training > 0
    assert judged(result).size[0] == pytest.approx([0.2] * N, abs=1e-6)


def test_what_it_learnt_is_what_the_gradient_says(shop):
    # Two linear classes: the loss of every image grows fastest along +-(w1 - w0), so with one class left to
    # attack the sum over the images points that way too.
    result = cell(shop, attacks="shove", datasets="grey:classes=2", goals="random", eps=0.3)
    assert result.trained["generators"] == 2  # one a target class
    assert (
        result.accuracy("robust").value
        == cell(shop, attacks="fgsm", datasets="grey:classes=2", goals="random", eps=0.3)
        .accuracy("robust")
        .value
    )


@pytest.mark.parametrize(
    ("asked", "on"),
    [
        ({"defenses": "square"}, "core"),
        ({"defenses": "square", "gradient": "full"}, "defended"),
        ({"defenses": "square", "gradient": "truncated"}, "defended"),
        ({"defenses": "square", "threats": "gray-box"}, "core"),
        ({"defenses": "replaced"}, "defended"),
        ({"defenses": "noisy", "threats": "gray-box"}, "core"),
        ({"defenses": "noisy", "threats": "seed-known"}, "defended"),
    ],
)
def test_the_record_says_which_system_was_trained_on(shop, asked, on):
    result = cell(shop, **SCALE, **asked)
    assert result.trained["on"] == on and result.status in ("ok", "suspect"), result.reason


def test_gray_box_trains_on_the_core_whatever_purifies_before_it(shop):
    one = cell(shop, **SCALE, defenses="noisy", threats="gray-box")
    two = cell(shop, **SCALE, defenses="zerogradient", threats="gray-box")
    bare = cell(shop, **SCALE)
    assert fits() == 2  # the core once for both defenses; the undefended system once
    assert one.weights["attack"] == two.weights["attack"] == bare.weights["attack"]  # the same gradients
    other = cell(shop, **SCALE, defenses="noisy+replaced", threats="gray-box")
    assert other.weights["attack"] != one.weights["attack"] and fits() == 3


# ---- once a recipe


def test_it_is_trained_once_for_everything_that_does_not_decide_it(shop, tmp_path):
    first = cell(shop, **SCALE)
    for more in ({"samples": 5}, {"seed": 3}, {"judge_seeds": 2}, {"threats": "white-box:draws=4"}):
        assert cell(shop, **SCALE, **more).weights["attack"] == first.weights["attack"]
    assert cell(workshop(tmp_path), **SCALE).weights == first.weights  # from the store
    assert fits() == 1
    for at, more in enumerate(({"eps": 0.1}, {"attacks": "shove:steps=3"}, {"classifiers": "bent"})):
        cell(shop, **{**SCALE, **more})
        assert fits() == 2 + at


def test_training_does_not_depend_on_torchs_generator_nor_leave_a_trace_in_it(tmp_path):
    asked = {"attacks": "advgan:steps=2,batch_size=10", "eps": 0.2}
    torch.manual_seed(1)
    first = cell(workshop(tmp_path / "a"), **asked)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = cell(workshop(tmp_path / "b"), **asked)
    assert first.weights == second.weights and judged(first) == judged(second)
    assert torch.equal(torch.get_rng_state(), state)


def test_it_is_not_trained_where_the_cell_is_not_run(shop):
    (only,) = planned(shop, **SCALE)
    from robustbench_gan.cell.evaluate import evaluate_cell

    assert evaluate_cell(only, shop, Settings(max_cell_minutes=1e-9)).status == "not run" and fits() == 0


# ---- goals


class Stamp(TrainedAttack):
    """Writes its number."""

    def __init__(self, number):
        super().__init__((1, 4, 4), 3)
        self.number = number

    def fit(self, training, goal_class, budget, seed):
        return {"steps": 0}

    def forward(self, view, x, goal, budget, seed):
        assert len(view.seed) == len(x) == len(goal.classes) == len(seed)
        return torch.full_like(x, self.number / 10) + seed[:, None, None, None] * 0


def test_every_sample_goes_to_the_generator_of_its_target():
    x, targets = images(5), torch.tensor([2, 0, 1, 0, 2])
    view = View.on(Bare(Linear()), seeds(5))
    attack = Fitted({c: Stamp(c) for c in range(3)})
    made = attack(view, x, Goal.targeted(targets), Budget("linf", 1.0), seeds(5))
    assert torch.allclose(made[:, 0, 0, 0] * 10, targets.float())
    only = Fitted({None: Stamp(7)})(view, x, Goal.targeted(targets), Budget("linf", 1.0), seeds(5))
    assert torch.allclose(only, torch.full_like(only, 0.7))


@pytest.mark.parametrize("goal", ["random", "all"])
def test_one_generator_a_class_unless_the_attack_is_conditional(shop, goal):
    each = cell(shop, **SCALE, goals=goal)
    assert each.trained["generators"] == 3
    assert each.weights.keys() == {"classifier", "attack.0", "attack.1", "attack.2"}
    joint = cell(shop, attacks="shove-any", eps=0.2, goals=goal)
    assert joint.trained["generators"] == 1 and joint.weights.keys() == {"classifier", "attack"}
    assert judged(joint).robust == judged(each).robust  # the same sums


def test_a_conditional_attack_asks_once_for_an_untargeted_goal_and_shares_its_training(shop):
    untargeted = cell(shop, attacks="shove-any", eps=0.2)
    targeted = cell(shop, attacks="shove-any", eps=0.2, goals="random")
    assert untargeted.weights == targeted.weights and fits() == 1
    assert judged(untargeted).forward == [1] * N and judged(targeted).forward == [0] * N

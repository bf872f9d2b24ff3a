"""Attacks that must first be trained: through which system, on whose images, how often, and what the record says."""

from __future__ import annotations

from collections import Counter

import planted_trained
import pytest
import torch
from planted import Linear, images, seeds
from planted_cells import grey
from planted_plugins import also_installed, cell, flags, installed, judged, planned, workshop  # noqa: F401 - fixtures

from robustbench_gan.api.run_attack import run_attack
from robustbench_gan.base import progress
from robustbench_gan.base.errors import UsageError
from robustbench_gan.cell.context import Settings
from robustbench_gan.contracts.attacks import Fitted, TrainedAttack, info_of
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.data.dataset import HOLDOUT
from robustbench_gan.engine.plan import execute, steps_of
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.training.store import Store

N = 20
DATA = grey()
SCALE = {"attacks": "shove", "eps": 0.2}


trained_plugins = also_installed("trained", planted_trained.ENTRY_POINTS)


@pytest.fixture
def shop(tmp_path):
    planted_trained.FITS.clear()
    return workshop(tmp_path)


def fits():
    return sum(planted_trained.FITS.values())


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


# ---- black-box

BLACK = "black-box:model=learner,rounds=2,substitute="


def test_papernot_gives_the_150_images_and_nothing_else(shop):
    result = cell(shop, **SCALE, threats=BLACK + "papernot")
    assert result.trained["images"] == HOLDOUT and result.trained["on"] == "substitute"
    assert result.weights.keys() == {"classifier", "substitute", "attack"}
    assert result.substitute["queries"] == HOLDOUT


@pytest.mark.parametrize("answers", ["labels", "scores"])
def test_static_distils_once_on_the_validation_images(shop, answers):
    threat = f"{BLACK}static,answers={answers}"
    result, count = cell(shop, **SCALE, threats=threat), len(DATA.validation)
    assert result.trained["on"] == "substitute" and result.trained["images"] == count
    facts = result.substitute
    assert (facts["protocol"], facts["queries"], facts["points"]) == ("static", count, count)
    assert facts["answers"] == answers
    plain = cell(shop, attacks="pgd:steps=3", eps=0.2, threats=threat)  # any attack can run on it
    assert plain.trained == {} and plain.weights["substitute"] == result.weights["substitute"]


def test_labels_and_scores_make_different_substitutes(shop):
    made = [
        cell(shop, attacks="fgsm", threats=f"{BLACK}static,answers={a}").weights for a in ("labels", "scores")
    ]
    assert made[0]["substitute"] != made[1]["substitute"]


@pytest.mark.parametrize("attack", ["shove", "shove-any"])
def test_dynamic_takes_turns_and_asks_for_the_examples_of_every_round(shop, attack):
    result, count = (
        cell(shop, attacks=f"{attack}:steps=6", eps=0.2, threats=BLACK + "dynamic"),
        len(DATA.validation),
    )
    assert result.status == "ok", result.reason
    assert fits() == 2 and result.trained["steps"] == 6  # half of the steps in each of two rounds
    assert result.substitute["queries"] == count + 2 * count
    assert result.weights.keys() == {"classifier", "attack"}  # the substitute is stored with the generator
    again = cell(shop, attacks=f"{attack}:steps=6", eps=0.2, threats=BLACK + "dynamic", samples=5)
    assert again.weights == result.weights and fits() == 2


def test_dynamic_with_a_generator_a_class_counts_the_queries_of_all(shop):
    result = cell(shop, **SCALE, goals="all", threats=BLACK + "dynamic")
    assert result.trained["generators"] == 3 and fits() == 3 * 2
    assert result.substitute["queries"] == 3 * 3 * len(DATA.validation)


def test_dynamic_is_for_trained_attacks_and_the_control(shop):
    result = cell(shop, attacks="pgd", threats=BLACK + "dynamic")
    assert (
        result.status == "not applicable" and "beside a generator, and the attack has none" in result.reason
    )
    control = cell(shop, attacks="noise", threats=BLACK + "dynamic")
    assert control.outcomes is not None and control.substitute == {} and control.trained == {}


def test_papernot_learns_from_labels_alone(shop):
    with pytest.raises(UsageError, match="papernot learns from labels alone; take substitute=static"):
        planned(shop, threats=BLACK + "papernot,answers=scores")


def test_query_grants_no_gradient_to_train_with(shop):
    result = cell(shop, **SCALE, threats="query")
    assert result.status == "not applicable" and "needs gradient" in result.reason


# ---- red flags look at the training


def test_a_training_that_saw_only_zeros_is_suspect(shop):
    result = cell(shop, **SCALE, defenses="zerogradient", gradient="full")
    assert result.status == "suspect" and flags(result)["zero-gradient"] == "invalid"


@pytest.mark.parametrize(("looks", "flag"), [(0, "defense-not-attacked"), (1, "no-backward")])
def test_a_training_that_never_asked_is_suspect(shop, looks, flag):
    result = cell(shop, attacks=f"lazy:looks={looks}", eps=0.2)
    assert result.status == "suspect" and flags(result) == {flag: "invalid"}


def test_a_training_without_a_gradient_to_follow_is_a_failed_cell(shop):
    result = cell(shop, **SCALE, defenses="detached", gradient="full")
    assert result.status == "failed" and result.reason.startswith("DisconnectedGradient")


def test_the_attack_of_the_cut_gradient_stays_a_control(shop):
    result = cell(shop, **SCALE, gradient="cut")
    assert result.status == "suspect" and "cut-gradient" in flags(result)


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
        on_step=lambda step: seen.append((step.kind, fits())), on_result=lambda *_: None,
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

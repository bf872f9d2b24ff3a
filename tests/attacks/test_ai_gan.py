from __future__ import annotations

import pytest
import torch
from planted import images, seeds
from planted_cells import Fixed
from rbg_attacks import ai_gan
from rbg_attacks.ai_gan import AIGAN
from torch.nn import functional as F

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.attacks import Fitted, Training
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.training.networks import fresh
from robustbench_gan.training.substitute import Queried

pytestmark = pytest.mark.rounding

SHAPE, CLASSES = (1, 4, 4), 3
BALL = Budget("linf", 0.2)
LINEAR = Fixed(CLASSES).requires_grad_(False)
CHEAP = {"steps": 30, "batch_size": 30, "lr": 0.003, "attacker_steps": 1}


def made(**parameters):
    return fresh(lambda: AIGAN(SHAPE, CLASSES, **{**CHEAP, **parameters}), 0)


def learnt(share=1.0, **parameters):
    """A generator after a short training, and the views of its batches."""
    module, views = made(**parameters), []

    def view(seed):
        views.append(View.on(Bare(LINEAR), seed, whole_batches=True))
        return views[-1]

    x = images(60, seed=9)
    facts = module.fit(Training(Queried(x, LINEAR(x).argmax(dim=1)), view, share), None, BALL, 0)
    return module.eval().requires_grad_(False), views, facts


def crafted(module, goal, x):
    view = View.on(Bare(LINEAR), seeds(len(x)), access="scores")
    return Fitted({None: module})(view, x, goal, BALL, seeds(len(x))), view


@pytest.mark.parametrize("version", [1, 2])
def test_one_training_reaches_every_class(version):
    module, _, facts = learnt(version=version, steps=60)
    x = images(60, seed=3)
    gained = []
    for target in range(CLASSES):
        goal = Goal.targeted(torch.full((60,), target))
        examples, view = crafted(module, goal, x)
        assert not view.counts.calls.any()
        gained.append(goal.margin(Output.of(LINEAR(examples))) - goal.margin(Output.of(LINEAR(x))))
    assert all(gain.mean() > 1 for gain in gained) and facts["steps"] == 60


def test_the_target_is_what_tells_examples_of_one_image_apart():
    module, _, _ = learnt(steps=2)
    x = images(1).repeat(CLASSES, 1, 1, 1)
    examples, _ = crafted(module, Goal.targeted(torch.arange(CLASSES)), x)
    assert not torch.equal(examples[0], examples[1]) and not torch.equal(examples[1], examples[2])


def test_untargeted_it_aims_at_the_runner_up_for_one_answer():
    module, _, _ = learnt(steps=2)
    x = images(20, seed=3)
    y = LINEAR(x).argmax(dim=1)
    runner_up = LINEAR(x).scatter(1, y[:, None], -torch.inf).argmax(dim=1)
    untargeted, view = crafted(module, Goal.untargeted(y), x)
    targeted, _ = crafted(module, Goal.targeted(runner_up), x)
    assert torch.equal(untargeted, targeted)
    assert (view.counts.forward == 1).all() and not view.counts.backward.any()


def test_training_targets_are_wrong_classes_and_all_of_them():
    module, y = made(), torch.arange(300) % CLASSES
    goal = module.goal_of(y, None, seeds(300))
    assert goal.kind == "targeted" and (goal.classes != y).all()
    pairs = torch.bincount(y * CLASSES + goal.classes, minlength=9).reshape(3, 3)
    assert pairs.diagonal().sum() == 0 and (pairs + 100 * torch.eye(3) > 25).all()


def test_labels_enter_as_one_hot_planes():
    joined = made()._joined(images(2), torch.tensor([2, 0]))
    assert joined.shape == (2, 4, 4, 4) and torch.equal(joined[:, :1], images(2))
    assert torch.equal(joined[0, 1:].mean(dim=(1, 2)), torch.tensor([0.0, 0.0, 1.0]))
    assert torch.equal(joined[1, 1:].mean(dim=(1, 2)), torch.tensor([1.0, 0.0, 0.0]))


# ---- the two versions


def test_the_discriminator_of_version_2_lowers_the_five_terms():
    module = made()
    x, y = images(4), torch.tensor([0, 1, 2, 0])
    batch = ai_gan.Batch(
        0.5, x, y, Goal.targeted((y + 1) % 3), View.on(Bare(LINEAR), seeds(4)), BALL, seeds(4)
    )
    adversarial, attacked = x.flip(0), module._attacked(batch)

    def heads(images):
        out = module.discriminator(images)
        return out[:, 0], out[:, 1:]

    expected = (
        F.binary_cross_entropy_with_logits(heads(x)[0], torch.ones(4))
        + F.binary_cross_entropy_with_logits(heads(adversarial)[0], torch.zeros(4))
        + F.cross_entropy(heads(x)[1], y)
        + F.cross_entropy(heads(attacked)[1], y)
        + F.cross_entropy(heads(adversarial)[1], y)
    )
    assert module.discriminator_loss(batch, adversarial).item() == pytest.approx(expected.item(), rel=1e-5)


def test_version_1_shows_the_attackers_examples_for_real_in_its_first_stage_alone(monkeypatch):
    stages = []
    real = AIGAN._attacked
    monkeypatch.setattr(
        AIGAN, "_attacked", lambda self, batch: stages.append(batch.done) or real(self, batch)
    )
    learnt(version=1, steps=20)
    assert stages == [0.0, 0.05]
    stages.clear()
    learnt(version=2, steps=3)
    assert len(stages) == 3


@pytest.mark.parametrize(
    ("parameters", "asked"),
    [
        ({"attacker_on": "disc"}, 1),
        ({"attacker_on": "auto"}, 1),
        ({"attacker_on": "target"}, 1 + 2),
        ({"attacker_on": "target", "attacker_steps": 3}, 1 + 4),
    ],
)
def test_the_attacker_attacks_what_it_is_told_to(parameters, asked):
    # The generator's loss asks the system once a batch, PGD on it once a step and once to look at the end.
    _, views, _ = learnt(steps=2, **parameters)
    assert all((view.counts.forward <= asked).all() for view in views)
    assert all((view.counts.forward > 1).all() == (asked > 1) for view in views)


def test_the_discriminator_learns_the_true_classes():
    module, _, _ = learnt(steps=60, lr=0.01)
    x = images(60, seed=9)
    right = module.discriminator(x)[:, 1:].argmax(dim=1) == LINEAR(x).argmax(dim=1)
    assert right.double().mean() > 0.8


def test_the_same_seed_trains_the_same_weights():
    one, two = (learnt(steps=3)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"class_weight": -1.0}, "class_weight"),
        ({"attacker_steps": 0}, "attacker_steps >= 1"),
        ({"version": 1, "attacker_on": "disc"}, "no class head"),
        ({"steps": 0}, "steps >= 1"),
    ],
)
def test_impossible_parameters_are_named(bad, named):
    with pytest.raises(UsageError, match=named):
        learnt(**bad)


def test_the_version_is_a_number_that_a_spec_can_choose():
    chosen = [
        registry.bind(Spec.parse(text), AIGAN, "attack")["version"] for text in ("ai-gan", "ai-gan:version=1")
    ]
    assert chosen == [2, 1]
    with pytest.raises(UsageError, match="Known: 1, 2"):
        registry.bind(Spec.parse("ai-gan:version=3"), AIGAN, "attack")

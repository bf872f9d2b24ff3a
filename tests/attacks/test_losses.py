"""The losses that gradient attacks climb, against their formulas."""

from __future__ import annotations

import pytest
import torch
from rbg_attacks._losses import dlr_towards, loss_of

from robustbench_gan.base.errors import NotApplicable, UsageError
from robustbench_gan.nouns.outcome import Goal, Output

LOGITS = torch.tensor([[3.0, 1.0, -2.0, 0.5], [0.0, 4.0, 1.0, 3.0], [2.0, 2.0, 2.0, 2.0]])
Y = torch.tensor([0, 2, 1])
OUT = Output.of(LOGITS)
GOALS = [Goal.untargeted(Y), Goal.targeted(Y)]


def numbers(values):
    return pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize("goal", GOALS)
def test_cross_entropy_is_the_goal_s_own_loss(goal):
    assert torch.equal(loss_of("ce", goal)(OUT), goal.loss(OUT))


def test_the_margin_is_the_gap_unclipped():
    assert loss_of("margin", GOALS[0])(OUT).tolist() == numbers([1 - 3, 4 - 1, 0])
    assert loss_of("margin", GOALS[1])(OUT).tolist() == numbers([3 - 1, 1 - 4, 0])


def test_the_ratio_is_the_gap_over_the_spread_of_the_largest_logits():
    assert loss_of("dlr", GOALS[0])(OUT).tolist() == numbers([-2 / (3 - 0.5), 3 / (4 - 1), 0])
    assert loss_of("dlr", GOALS[1])(OUT).tolist() == numbers([2 / (3 + 0.75), -3 / (4 - 0.5), 0])
    towards = dlr_towards(Y, torch.tensor([1, 3, 0]))(OUT)
    assert towards.tolist() == numbers([(1 - 3) / (3 + 0.75), (3 - 1) / (4 - 0.5), 0])


@pytest.mark.parametrize("goal", GOALS)
def test_no_rescaling_of_the_logits_changes_the_ratio(goal):
    loss = loss_of("dlr", goal)
    assert torch.allclose(loss(Output.of(LOGITS * 1000 + 7)), loss(OUT), atol=1e-4)


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("name", ["ce", "margin", "dlr"])
def test_a_firing_detector_is_charged_and_a_silent_one_is_not(goal, name):
    scores = torch.tensor([[0.5, 0.25], [-1.0, 2.0], [-1.0, -3.0]])
    charged = loss_of(name, goal)(OUT) - loss_of(name, goal)(Output(LOGITS, scores))
    assert charged.tolist() == numbers([0.75, 2.0, 0.0])
    towards = dlr_towards(Y, (Y + 1) % 4)
    assert (towards(OUT) - towards(Output(LOGITS, scores))).tolist() == numbers([0.75, 2.0, 0.0])


@pytest.mark.parametrize("name", ["margin", "dlr"])
def test_there_is_a_gradient_where_cross_entropy_has_underflowed(name):
    steep = (LOGITS[:1] * 1000).requires_grad_()

    def slope(loss):
        return torch.autograd.grad(loss(Output.of(steep)).sum(), steep)[0].abs().sum()

    goal = Goal.untargeted(Y[:1])
    assert slope(loss_of("ce", goal)) == 0 and slope(loss_of(name, goal)) > 0


def test_equal_logits_give_no_nan():
    leaf = torch.zeros(2, 5, requires_grad=True)
    for goal in (Goal.untargeted(Y[:2]), Goal.targeted(Y[:2])):
        value = loss_of("dlr", goal)(Output.of(leaf))
        (grad,) = torch.autograd.grad(value.sum(), leaf)
        assert torch.isfinite(value).all() and torch.isfinite(grad).all()


def test_too_few_classes_and_unknown_names_are_declined():
    two, three = Output.of(LOGITS[:, :2]), Output.of(LOGITS[:, :3])
    zero = torch.zeros(3, dtype=torch.int64)
    loss_of("dlr", Goal.untargeted(zero))(three)
    for goal, out in ((Goal.untargeted(zero), two), (Goal.targeted(zero), three)):
        with pytest.raises(NotApplicable, match="classes"):
            loss_of("dlr", goal)(out)
    with pytest.raises(UsageError, match="margin"):
        loss_of("margim", GOALS[0])

from __future__ import annotations

import math

import pytest
import torch

from robustbench_gan.nouns.outcome import REJECTED, Goal, Output, correct

NAN = math.nan


def brute_accepted(scores):
    return all(s <= 0 for s in scores)  # NaN <= 0 is false


def brute_win(kind, logits, scores, cls):
    """The goal is reached, spelled out: accepted, no NaN, the class left (a tie is left) or taken."""
    if not brute_accepted(scores) or any(math.isnan(v) for v in logits):
        return False
    others = [v for k, v in enumerate(logits) if k != cls]
    return max(others) >= logits[cls] if kind == "untargeted" else logits[cls] > max(others)


def awkward(detectors, seed=0, n=600, classes=4):
    """Coarse values, so that ties and zero scores abound, with NaNs and infinities sprinkled in."""
    g = torch.Generator().manual_seed(seed + detectors)
    logits = torch.randint(-2, 3, (n, classes), generator=g).float()
    scores = torch.randint(-2, 2, (n, detectors), generator=g).float()
    logits[torch.rand(n, classes, generator=g) < 0.04] = NAN
    scores[torch.rand(n, detectors, generator=g) < 0.04] = NAN
    return Output(logits, scores), torch.randint(classes, (n,), generator=g)


@pytest.mark.parametrize("detectors", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["untargeted", "targeted"])
def test_margin_is_positive_exactly_where_accepted_and_the_goal_is_reached(kind, detectors):
    out, classes = awkward(detectors)
    expected = [
        brute_win(kind, out.logits[i].tolist(), out.scores[i].tolist(), int(classes[i]))
        for i in range(len(classes))
    ]
    goal = Goal(kind, classes)
    assert any(expected) and not all(expected)
    assert (goal.margin(out) > 0).tolist() == expected
    assert goal.reached(out).tolist() == expected


@pytest.mark.parametrize("detectors", [0, 2])
def test_correct_is_accepted_and_strictly_first_and_never_true_for_nan(detectors):
    out, y = awkward(detectors, seed=7)
    expected = []
    for logits, scores, k in zip(out.logits.tolist(), out.scores.tolist(), y.tolist(), strict=True):
        others = [v for j, v in enumerate(logits) if j != k]
        nan = any(math.isnan(v) for v in logits)
        expected.append(brute_accepted(scores) and not nan and logits[k] > max(others))
    assert correct(out, y).tolist() == expected
    assert not correct(Output.of(torch.full((2, 3), NAN)), torch.tensor([0, 2])).any()


def test_accepted_right_and_won_exclude_and_exhaust_each_other_without_nan():
    g = torch.Generator().manual_seed(3)
    out = Output(
        torch.randint(-2, 3, (500, 3), generator=g).float(),
        torch.randint(-1, 2, (500, 2), generator=g).float(),
    )
    y = torch.randint(3, (500,), generator=g)
    assert torch.equal(correct(out, y) ^ Goal.untargeted(y).reached(out), out.accepted)


def test_margin_is_the_gap_of_carlini_and_wagner_where_accepted():
    out = Output(torch.tensor([[1.0, 4.0, 2.5]]), torch.tensor([[-3.0, 0.0]]))
    assert Goal.untargeted(torch.tensor([2])).margin(out).item() == 1.5
    assert Goal.untargeted(torch.tensor([1])).margin(out).item() == -1.5
    assert Goal.targeted(torch.tensor([1])).margin(out).item() == 1.5
    assert Goal.targeted(torch.tensor([0])).margin(out).item() == -3.0


def test_a_tie_is_a_win_only_when_untargeted():
    out, k = Output.of(torch.tensor([[2.0, 2.0, 1.0]])), torch.tensor([0])
    assert Goal.untargeted(k).reached(out).item()
    assert not Goal.targeted(k).reached(out).item()
    assert not correct(out, k).item()


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1.0, 1e30])
def test_a_tie_is_won_at_any_scale_and_the_smallest_step_decides(scale):
    own = torch.tensor([[scale, scale]])
    above = own.clone()
    above[0, 0] = torch.nextafter(above[0, 0], torch.tensor(math.inf))
    goal = Goal.untargeted(torch.tensor([0]))
    assert goal.reached(Output.of(own)).item()
    assert not goal.reached(Output.of(above)).item()
    assert goal.reached(Output.of(above.flip(1))).item()


def test_a_score_of_exactly_zero_is_accepted_and_the_next_number_is_not():
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    scores = torch.tensor([[0.0], [torch.finfo(torch.float32).tiny]])
    out, goal = Output(logits, scores), Goal.untargeted(torch.tensor([0, 0]))
    assert out.accepted.tolist() == [True, False]
    assert out.labels.tolist() == [1, REJECTED]
    assert goal.reached(out).tolist() == [True, False]


def test_a_nan_score_is_a_rejection():
    out = Output(torch.tensor([[0.0, 1.0]]), torch.tensor([[-1.0, NAN]]))
    assert not out.accepted.any() and out.labels.tolist() == [REJECTED]
    assert not Goal.untargeted(torch.tensor([0])).reached(out).any()


def test_loss_is_cross_entropy_and_rises_towards_the_goal():
    out = Output.of(torch.tensor([[3.0, 1.0, 0.0], [1.0, 3.0, 0.0]]))
    k = torch.tensor([0, 0])
    expected = torch.logsumexp(out.logits, dim=1) - out.logits[:, 0]
    assert torch.allclose(Goal.untargeted(k).loss(out), expected)
    assert torch.allclose(Goal.targeted(k).loss(out), -expected)
    for make in (Goal.untargeted, Goal.targeted):
        logits = out.logits.clone().requires_grad_()
        goal = make(k)
        (up,) = torch.autograd.grad(goal.loss(Output.of(logits)).sum(), logits)
        stepped = Output.of(out.logits + up)
        assert (goal.loss(stepped) > goal.loss(out)).all()
        assert (goal.margin(stepped) > goal.margin(out)).all()


def test_loss_charges_firing_detectors_and_only_those():
    logits = torch.zeros(2, 3)
    goal = Goal.untargeted(torch.tensor([0, 0]))
    plain = goal.loss(Output.of(logits))
    charged = goal.loss(Output(logits, torch.tensor([[-5.0, -0.1], [2.0, -0.1]])))
    assert torch.allclose(plain - charged, torch.tensor([0.0, 2.0]))


def test_margin_leads_back_to_where_inputs_are_accepted():
    scores = torch.tensor([[0.5, 2.0]], requires_grad=True)
    out = Output(torch.tensor([[0.0, 9.0]]), scores)
    margin = Goal.untargeted(torch.tensor([0])).margin(out)
    assert margin.item() == -2.0
    (grad,) = torch.autograd.grad(margin.sum(), scores)
    assert grad.tolist() == [[0.0, -1.0]]


def test_rows_narrows_the_goal_with_positions_and_masks():
    out, classes = awkward(2, seed=11)
    goal = Goal.untargeted(classes)
    for index in (torch.tensor([5, 3, 3]), torch.arange(len(classes)) % 3 == 0):
        some = Output(out.logits[index], out.scores[index])
        narrowed = goal.rows(index)
        assert narrowed.kind == "untargeted"
        assert torch.equal(narrowed.margin(some).nan_to_num(9), goal.margin(out)[index].nan_to_num(9))


def test_detach_keeps_the_numbers_and_drops_the_graph():
    logits = torch.ones(2, 3, requires_grad=True)
    out = Output(logits * 2, logits[:, :1]).detach()
    assert not out.logits.requires_grad and not out.scores.requires_grad
    assert out.logits.eq(2).all() and out.scores.eq(1).all()

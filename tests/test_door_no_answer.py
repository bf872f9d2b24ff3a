"""NaN and infinity are no answers: no robustness is read off them; masked classes are legal."""

from __future__ import annotations

import math

import pytest
import torch
from answering import NET, Answers, K, N, X, Y, attacked
from planted import seeds

from robustbench_gan import run_attack
from robustbench_gan.base.errors import NotANumber, UsageError
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.outcome import Goal, Output, correct, unanswered


def other_than_clean(value, only=slice(None)):
    """NaN, or whatever, for all that is no clean image."""
    clean = {tuple(row.tolist()) for row in X.flatten(1)}

    def form(m, x):
        known = torch.tensor([tuple(row.tolist()) in clean for row in x.flatten(1)])
        out = m(x).clone()
        out[:, only] = torch.where(known[:, None], out[:, only], value)
        return out

    return Answers(form)


@pytest.mark.parametrize("attack", ["noise", "pgd:steps=20", "square:queries=10", "fgsm"])
@pytest.mark.parametrize(
    ("value", "only"),
    [
        (math.nan, slice(None)),
        (math.nan, slice(1)),
        (math.inf, slice(None)),
        (math.inf, slice(1)),
        (-math.inf, slice(None)),
    ],
)
def test_no_answer_to_what_is_no_clean_image_is_no_robustness(attack, value, only):
    with pytest.raises(UsageError, match="NaN or infinity"):
        attacked(other_than_clean(value, only), attack)


def test_no_answer_to_clean_images_is_said_of_them():
    with pytest.raises(UsageError, match="NaN or infinity to clean images"):
        attacked(Answers(lambda m, x: m(x) * math.nan))
    with pytest.raises(UsageError, match="-infinity for the true class of 4 clean images"):
        hidden = Y.mode().values
        assert int((hidden == Y).sum()) >= 4
        mask = torch.zeros(N, K, dtype=torch.bool)
        mask[(hidden == Y).nonzero()[:4, 0], hidden] = True
        known = {tuple(row.tolist()): m for row, m in zip(X.flatten(1), mask, strict=True)}
        attacked(Answers(lambda m, x: torch.stack([
            row.masked_fill(known.get(tuple(at.tolist()), torch.zeros(K, dtype=torch.bool)), -math.inf)
            for row, at in zip(m(x), x.flatten(1), strict=True)
        ])), "noise")  # fmt: skip


def test_what_counts_as_no_answer():
    inf, nan = math.inf, math.nan
    logits = torch.tensor(
        [[0.0, 1, 2], [nan, 0, 0], [inf, 0, 0], [-inf, 0, 0], [0, -inf, 0], [-inf] * 3, [inf, -inf, 0]]
    )
    y = torch.zeros(len(logits), dtype=torch.int64)
    assert unanswered(Output.of(logits)).tolist() == [False, True, True, False, False, True, True]
    assert unanswered(Output.of(logits), y).tolist() == [False, True, True, True, False, True, True]
    scored = Output(logits[:1].expand(3, 3), torch.tensor([[nan], [inf], [-inf]]))
    assert unanswered(scored).tolist() == [True, False, False]


def test_a_view_says_so_at_once_but_not_of_an_input_that_is_no_number_itself():
    view = View.on(Bare(Answers(lambda m, x: m(x).log())), seeds(N))
    with pytest.raises(NotANumber):
        view.output(X)
    assert View.on(Bare(NET), seeds(N)).output(X * math.nan).logits.isnan().all()


MASKED = torch.tensor([False, True, False])


@pytest.mark.parametrize("masked", [
    lambda m, x: m(x).masked_fill(MASKED, -math.inf), lambda m, x: m(x) + torch.where(MASKED, -math.inf, 0.0),
], ids=["filled", "added"])  # fmt: skip
@pytest.mark.parametrize("attack", ["pgd:steps=20", "cw-bounded:steps=20", "deepfool"])
def test_a_masked_class_is_legal_and_the_attack_is_that_on_the_others(masked, attack):
    """The same network with the class left out is the same problem."""
    model, norm = Answers(masked), "linf" if attack.startswith("pgd") else "l2"
    with torch.no_grad():
        y = model(X).argmax(dim=1)
    found = run_attack(attack, model.eval(), X, y, norm=norm, epsilons=0.2)
    without = Answers(lambda m, x: m(x)[:, [0, 2]])
    fewer = run_attack(attack, without.eval(), X, y // 2, norm=norm, epsilons=0.2)
    assert found.right.all() and found.success.any()
    assert (found.success == fewer.success).all()
    assert found.median_size == pytest.approx(fewer.median_size, rel=0.02)


def test_margins_and_gradients_of_masked_classes_are_numbers():
    view = View.on(Bare(Answers(lambda m, x: m(x).masked_fill(MASKED, -math.inf))), seeds(N))
    y = torch.zeros(N, dtype=torch.int64)
    for goal in (Goal.untargeted(y), Goal.targeted(y + 1), Goal.targeted(y + 2)):
        for loss in (goal.loss, goal.margin):
            _, grad, out = view.value_and_grad(loss, X)
            assert grad.isfinite().all()
        reached = goal.reached(out)
        answered = NET(X)[:, [0, 2]].argmax(dim=1) * 2  # by the two classes that are left
        assert torch.equal(reached, answered != y if goal.kind == "untargeted" else answered == goal.classes)
    assert view.jacobian(X)[0].isfinite().all()
    assert torch.equal(correct(view.output(X), y), NET(X)[:, [0, 2]].argmax(dim=1) == 0)

"""One defense: what it answers and which gradient each threat model is granted."""

from __future__ import annotations

import pytest
import torch
from differentiated import gradient_of, row
from planted import Detector, Linear, Noise, Round, Scale, Shift, Square, conv, images, seeds
from torch import nn

from robustbench_gan.base.errors import DisconnectedGradient, NotApplicable
from robustbench_gan.contracts.composition import Composed
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.gradients import StraightThrough, declared_gradients
from robustbench_gan.contracts.systems import Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.outcome import Goal


def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other():
    value = torch.randn(5, requires_grad=True)
    stand_in = torch.randn(5, requires_grad=True)
    out = StraightThrough.apply(value, stand_in)
    weights = torch.randn(5)
    assert torch.equal(out, value) and out.data_ptr() != value.data_ptr()
    got = torch.autograd.grad((out * weights).sum(), [value, stand_in], allow_unused=True)
    assert got[0] is None and torch.equal(got[1], weights)


def test_a_defense_that_changes_nothing_is_its_classifier():
    model, x = conv(), images(5)
    defense = Defense(model)
    out = defense(x, seeds(5))
    assert torch.equal(out.logits, model(x)) and out.scores.shape == (5, 0)
    assert defense.core is model and defense.base is model and defense.gradients == ("full",)
    assert Scale(model).gradients == ("full", "bpda")
    with pytest.raises(NotApplicable):
        defense.attacked(x, seeds(5), "truncated", 3)


@pytest.mark.parametrize("gradient", ["full", "bpda", "truncated", "cut"])
@pytest.mark.parametrize("make", [Scale, Noise, Square, Round, lambda m: Composed([Scale(m), Shift(m)])])
def test_whatever_gradient_is_granted_the_answer_is_that_of_forward(make, gradient):
    x, model = images(4), conv()
    defense = make(model)
    if gradient == "truncated" and not isinstance(defense, Square | Composed):
        with pytest.raises(NotApplicable):
            defense.attacked(x, seeds(4), gradient, 2)
        return
    out = defense.attacked(x, seeds(4), gradient, 2)
    assert torch.allclose(out.logits, defense(x, seeds(4)).logits, atol=1e-6)
    if gradient != "truncated":
        assert torch.equal(out.logits, defense(x, seeds(4)).logits)


def test_full_differentiates_the_purifier_and_bpda_its_surrogate():
    model, x = Linear(), images(4)
    defense = Scale(model, factor=0.5, stand_in=3.0)
    _, full = gradient_of(defense, x)
    _, bpda = gradient_of(defense, x, "bpda")
    assert torch.allclose(full, row(model, x, 0.5)) and torch.allclose(bpda, row(model, x, 3.0))


def test_bpda_with_the_identity_takes_the_classifiers_gradient_at_the_purified_point():
    model, x = conv(), images(4)
    defense = Round(model)
    _, bpda = gradient_of(defense, x, "bpda")
    at = defense.purify(x, seeds(4)).requires_grad_()
    (expected,) = torch.autograd.grad(model(at)[:, 0].sum(), at)
    assert torch.allclose(bpda, expected)
    here = x.clone().requires_grad_()
    (elsewhere,) = torch.autograd.grad(model(here)[:, 0].sum(), here)
    assert not torch.allclose(bpda, elsewhere)


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_truncated_differentiates_the_last_steps_alone(steps):
    """x^8 as three squarings: the slope of the last s is 2^s y^(2^s - 1) at y = x^(2^(3 - s))."""
    model, x = Linear(), images(4) + 0.5
    _, grad = gradient_of(Square(model), x, "truncated", steps)
    y = x ** (2 ** (3 - steps))
    slope = 2**steps * y ** (2**steps - 1)
    assert torch.allclose(grad, row(model, x) * slope, rtol=1e-4)


@pytest.mark.parametrize("ask", ["value_and_grad", "jacobian"])
def test_a_purifier_that_autograd_cannot_see_through_is_an_error_never_zeros(ask):
    x, goal = images(3), Goal.untargeted(torch.tensor([0, 1, 2]))
    view = View.on(Defended(Round(conv()), "full"), seeds(3))
    with pytest.raises(DisconnectedGradient, match="no path from the loss to the input"):
        view.jacobian(x) if ask == "jacobian" else view.value_and_grad(goal.loss, x)
    assert View.on(Defended(Round(conv()), "bpda"), seeds(3)).jacobian(x)[0].ne(0).any()


def test_cut_gives_zeros_with_the_true_value():
    x, goal = images(3), Goal.untargeted(torch.tensor([0, 1, 2]))
    defense = Scale(conv())
    view = View.on(Defended(defense, "cut"), seeds(3))
    value, grad, out = view.value_and_grad(goal.loss, x)
    assert grad.shape == x.shape and grad.eq(0).all()
    assert torch.allclose(out.logits, defense(x, seeds(3)).logits, atol=1e-6)
    assert torch.allclose(value, goal.loss(out)) and view.counts.zero_gradients.tolist() == [1, 1, 1]
    assert view.jacobian(x)[0].shape == (3, 3, *x.shape[1:]) and view.jacobian(x)[0].eq(0).all()


@pytest.mark.parametrize("said", ["bpda", ("BPDA",), (), ("full", "cut"), ("full", "straight")])
def test_gradients_that_do_not_exist_are_an_error_that_names_them(said):
    class Says(Scale):
        gradients = said

    model = conv()
    with pytest.raises(
        ValueError, match=r"Says\.gradients is .*expected a tuple of some of full, bpda, truncated"
    ):
        declared_gradients(Says(model))
    with pytest.raises(ValueError, match=r"Says\.gradients"):
        declared_gradients(Composed([Says(model), Scale(model)]))
    with pytest.raises(KeyError):
        Scale(model).attacked(images(2), seeds(2), "BPDA", 5)
    assert declared_gradients(Scale(model)) == ("full", "bpda")


def test_a_purifier_that_does_not_say_so_cannot_be_written():
    for body in ({}, {"purifies": False}):
        with pytest.raises(TypeError, match="Silent overrides purify: it must say `purifies = True`"):
            type("Silent", (Defense,), {"purify": lambda self, x, seed: x / 2, **body})
    type("Child", (Scale,), {"purify": lambda self, x, seed: x / 2})  # its parent says so


@pytest.mark.parametrize("gradient", ["full", "bpda"])
def test_what_is_not_of_the_form_of_an_image_or_a_score_is_an_error_that_names_it(gradient):
    class Flat(Scale):
        def purify(self, x, seed):
            return x.flatten(1)

    class Scored(Scale):
        def scores(self, x, purified, seed):
            return x.flatten(1).mean(dim=1)

    x, s = images(3), seeds(3)
    for kind, says in (
        (Flat, rf"Flat.purify returned \(3, {x[0].numel()}\) torch.float32, expected \(3, "),
        (Scored, r"Scored.scores returned \(3,\) torch.float32, expected \(N, M\)"),
    ):
        for defense in (kind(conv()), Composed([kind(conv()), Defense(conv())])):
            with pytest.raises(ValueError, match=says):
                defense.attacked(x, s, gradient, 5)
            with pytest.raises(ValueError, match=says):
                defense(x, s)


def test_the_attackers_gradient_goes_through_the_detectors_too():
    model, x = Linear(), images(4)
    leaf = x.clone().requires_grad_()
    out = Detector(model).attacked(leaf, seeds(4), "full", 5)
    (grad,) = torch.autograd.grad(out.scores.sum(), leaf)
    assert torch.allclose(grad, torch.full_like(x, 1 / 16))


def test_a_defense_has_the_parameters_of_its_networks():
    model = nn.Linear(2, 2)
    defense = Defense(model)
    assert {id(p) for p in defense.parameters()} == {id(p) for p in model.parameters()}

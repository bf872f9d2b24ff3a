from __future__ import annotations

import pytest
import torch
from planted import Detector, Linear, Noise, Retrained, Round, Scale, Seen, Shift, Square, conv, images, seeds
from torch import nn

from robustbench_gan.base.errors import DisconnectedGradient, NotApplicable
from robustbench_gan.contracts.composition import Composed
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.gradients import StraightThrough, declared_gradients
from robustbench_gan.contracts.systems import Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.seeds import fold, normal


def gradient_of(defense, x, gradient="full", unroll=5, seed=None):
    """d(sum of the first logit) / dx through `attacked`."""
    leaf = x.clone().requires_grad_()
    out = defense.attacked(leaf, seeds(len(x)) if seed is None else seed, gradient, unroll)
    (grad,) = torch.autograd.grad(out.logits[:, 0].sum(), leaf)
    return out, grad


def row(model, x, factor=1.0):
    return (model.weight[0] * factor).reshape(1, *x.shape[1:]).expand_as(x)


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


def test_the_first_of_a_composition_sees_the_input_first():
    model, x = conv(), images(4)
    out = Composed([Scale(model, factor=0.5), Shift(model)])(x, seeds(4))
    assert torch.allclose(out.logits, model(x * 0.5 + 0.25))
    out = Composed([Shift(model), Scale(model, factor=0.5)])(x, seeds(4))
    assert torch.allclose(out.logits, model((x + 0.25) * 0.5))


def test_each_stage_has_its_own_stream_of_seeds():
    model, x, s = conv(), images(4), seeds(4)
    stages = [Seen(model), Seen(model), Seen(model)]
    Composed(stages)(x, s)
    given = [stage.seen[0] for stage in stages]
    assert [g.tolist() for g in given] == [fold(s, at).tolist() for at in range(3)]
    assert len(torch.cat([s, *given]).unique()) == 16
    noisy = Composed([Noise(model), Noise(model)]).purify(x, s)
    both = normal(fold(s, 0), x.shape[1:]) + normal(fold(s, 1), x.shape[1:])
    assert torch.allclose(noisy, x + 0.5 * both, atol=1e-6)


def test_the_gradients_of_a_composition_follow_the_chain_rule():
    model, x = Linear(), images(4)
    both = Composed([Scale(model, factor=0.5, stand_in=3.0), Scale(model, factor=0.1, stand_in=7.0)])
    assert torch.allclose(gradient_of(both, x)[1], row(model, x, 0.05))
    assert torch.allclose(gradient_of(both, x, "bpda")[1], row(model, x, 21.0))
    halved = Composed([Scale(model, factor=0.5), Square(model)])
    expected = row(model, x) * 0.5 * 2 * (x * 0.5) ** 4  # only the last of the squarings
    assert torch.allclose(gradient_of(halved, x, "truncated", 1)[1], expected)


def test_a_composition_grants_the_gradients_that_every_purifying_stage_grants():
    class OnlyBpda(Scale):
        @property
        def gradients(self):
            return ("bpda",)

    model = conv()
    assert Composed([Defense(model), Defense(model)]).gradients == ("full",)
    assert Composed([Scale(model), Defense(model)]).gradients == ("full", "bpda")
    assert Composed([Scale(model), OnlyBpda(model)]).gradients == ("bpda",)


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


def test_a_composition_is_random_purifying_or_unrolled_where_a_stage_is():
    model = conv()
    both = Composed([Noise(model), Defense(model)])
    assert both.randomised and both.purifies and not both.unrolls
    assert Composed([Square(model), Defense(model)]).unrolls
    plain = Composed([Defense(model), Defense(model)])
    assert not (plain.randomised or plain.purifies or plain.unrolls)
    assert Composed.purifies and not Composed.randomised  # the class is as it was declared


def test_each_stage_scores_the_input_that_it_sees():
    model, x, s = conv(), images(6), seeds(6)
    both = Composed([Detector(model), Scale(model, factor=0.5), Detector(model, threshold=0.1)])
    out = both(x, s)
    mean = x.flatten(1).mean(dim=1)
    assert torch.allclose(out.scores, torch.stack([mean - 0.5, mean * 0.5 - 0.1], dim=1))
    assert torch.allclose(out.logits, model(x * 0.5))
    assert Composed([Scale(model), Shift(model)])(x, s).scores.shape == (6, 0)


def score_gradient(defense, x, gradient, column=-1, unroll=5, surrogate=None):
    """d(sum of one column of the scores) / dx through `attacked`."""
    leaf = x.clone().requires_grad_()
    scores = defense.attacked(leaf, seeds(len(x)), gradient, unroll, surrogate).scores
    return torch.autograd.grad(scores[:, column].sum(), leaf)[0]


def test_a_later_stage_s_detector_is_differentiated_as_the_threat_model_grants():
    """The score is the mean of 16 pixels, so its slope is 1/16 times that of the stages before it."""
    model, x = conv(), images(4)
    both = Composed([Scale(model, factor=0.5, stand_in=3.0), Detector(model)])
    assert torch.allclose(score_gradient(both, x, "full"), torch.full_like(x, 0.5 / 16))
    assert torch.allclose(score_gradient(both, x, "bpda"), torch.full_like(x, 3.0 / 16))
    unrolled = Composed([Square(model), Detector(model)])
    assert torch.allclose(score_gradient(unrolled, x, "truncated", unroll=1), 2 * x**4 / 16)
    assert torch.allclose(score_gradient(unrolled, x, "truncated", unroll=3), 8 * x**7 / 16)


def test_bpda_leads_to_a_detector_behind_a_purifier_that_autograd_cannot_see_through():
    model, x = conv(), images(4)
    both = Composed([Round(model), Detector(model)])
    assert not both(x.clone().requires_grad_(), seeds(4)).scores.requires_grad
    assert torch.allclose(score_gradient(both, x, "bpda"), torch.full_like(x, 1 / 16))


def test_bpda_takes_each_surrogate_s_slope_where_the_input_really_is():
    class Cubed(Scale):
        def surrogate(self, x, seed):
            return x**3

    x = images(4)
    both = Composed([Scale(Linear(), factor=0.5), Cubed(Linear()), Detector(Linear())])
    assert torch.allclose(score_gradient(both, x, "bpda"), 3 * (x * 0.5) ** 2 / 16)


def test_an_attackers_surrogate_stands_for_the_whole_way_and_inner_detectors_keep_the_defenders():
    model, x = Linear(), images(4)
    stages = [Scale(model, stand_in=3.0), Detector(model), Scale(model, stand_in=5.0), Reformed(model)]
    both, own = Composed(stages), lambda given, seed: given * 7.0
    leaf = x.clone().requires_grad_()
    logits = both.attacked(leaf, seeds(4), "bpda", 5, own).logits
    assert torch.allclose(torch.autograd.grad(logits[:, 0].sum(), leaf)[0], row(model, x, 7.0))
    assert torch.allclose(score_gradient(both, x, "bpda", 0, surrogate=own), torch.full_like(x, 3 / 16))
    assert torch.allclose(score_gradient(both, x, "bpda", 1, surrogate=own), torch.full_like(x, 7 / 16))


class Reformed(Defense):
    """Scores the purified image alone."""

    def scores(self, x, purified, seed):
        return purified.flatten(1).mean(dim=1, keepdim=True)


CHAINS = {
    "plain": lambda m: [Scale(m), Detector(m)],
    "random": lambda m: [Detector(m), Noise(m), Detector(m), Noise(m), Reformed(m)],
    "nested": lambda m: [Noise(m), Composed([Noise(m), Detector(m)]), Detector(m)],
    "opaque": lambda m: [Round(m), Detector(m)],
    "no detectors": lambda m: [Scale(m), Noise(m)],
}


@pytest.mark.parametrize("gradient", ["full", "bpda", "cut"])
@pytest.mark.parametrize("chain", CHAINS)
def test_a_composition_answers_the_same_bit_for_bit_whatever_gradient_is_granted(chain, gradient):
    x, s, both = images(5), seeds(5), Composed(CHAINS[chain](conv()))
    plain = both(x, s)
    for surrogate in (None, lambda given, seed: given * 7.0):
        out = both.attacked(x.clone().requires_grad_(), s, gradient, 2, surrogate)
        assert torch.equal(out.logits, plain.logits) and torch.equal(out.scores, plain.scores)
    assert torch.equal(both.core(both.purify(x, s)), plain.logits)
    assert torch.equal(both.scores(x, both.purify(x, s), s), plain.scores)


@pytest.mark.parametrize("gradient", ["full", "bpda", "truncated", "cut"])
def test_an_answer_passes_every_purifier_once(gradient):
    model, x = conv(), images(3)
    stages = [Seen(model), Detector(model), Seen(model), Detector(model)]
    both = Composed(stages)
    both(x, seeds(3))
    assert [len(s.seen) for s in stages[::2]] == [1, 1]
    both.attacked(x, seeds(3), gradient, 2)
    assert [len(s.seen) for s in stages[::2]] == [2, 2]


def test_a_nested_composition_is_the_flat_one_but_for_its_seeds():
    model, x = conv(), images(4)
    stages = [Scale(model, stand_in=3.0), Detector(model), Shift(model), Detector(model, threshold=0.1)]
    flat, nested = Composed(stages), Composed([stages[0], Composed([*stages[1:3]]), stages[3]])
    for gradient in ("full", "bpda"):
        outs = [c.attacked(x, seeds(4), gradient, 2) for c in (flat, nested)]
        assert torch.equal(outs[0].logits, outs[1].logits) and torch.equal(outs[0].scores, outs[1].scores)
        assert torch.equal(score_gradient(flat, x, gradient), score_gradient(nested, x, gradient))


def test_detectors_are_named_and_a_composition_names_them_under_their_position():
    class Named(Detector):
        detectors = ("brightness",)

    model = conv()
    assert Defense(model).detectors == () and Named(model).detectors == ("brightness",)
    both = Composed([Named(model), Scale(model), Named(model)])
    assert both.detectors == ("0.brightness", "2.brightness")


def test_parts_and_keys_are_those_of_every_stage():
    model = conv()
    outer, inner = Detector(model), Detector(model)
    both = Composed([outer, inner])
    assert dict(both.parts()) == {"scale": outer.scale}
    keyed = Composed([Retrained(model, name="x"), Retrained(model, name="y")])
    assert keyed.training_keys() == {"0.core": "x", "1.core": "y"}


def test_fitting_goes_from_the_classifier_outwards_and_each_stands_on_the_inner_ones(store):
    model = conv()
    outer, middle, inner = Retrained(model, name="outer"), Scale(model), Retrained(model, name="inner")
    both = Composed([outer, middle, inner])
    both.base_key = "base"
    both.fit(None, 0, store)
    assert inner.stood_on == (model, "base")
    assert middle.base is inner.stood_on[0] or middle.base[0] is model
    assert outer.stood_on is not None and outer.stood_on[0][0] is model
    assert outer.stood_on[1] == "base+inner"
    assert both.core is outer.core and both.core[0] is outer.stood_on[0]
    assert inner.core is middle.core is outer.core is both.core
    x = images(3)
    assert torch.allclose(both(x, seeds(3)).logits, model(x * 0.5))


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

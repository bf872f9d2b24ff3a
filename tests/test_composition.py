"""Composed defenses: order, seeds, gradients and detectors of their stages."""

from __future__ import annotations

import pytest
import torch
from differentiated import gradient_of, row
from planted import Detector, Linear, Noise, Retrained, Round, Scale, Seen, Shift, Square, conv, images, seeds

from robustbench_gan.contracts.composition import Composed
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.nouns.seeds import fold, normal


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

"""What a view answers: what its threat model grants, as the judge would, and no more."""

from __future__ import annotations

import inspect

import pytest
import torch
from planted import SHAPE, Detector, Noise, Scale, conv, images, seeds
from viewed import SIZE, goal_of

from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Bare, Defended, answer
from robustbench_gan.contracts.threat import THREATS
from robustbench_gan.contracts.view import View, blend
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.seeds import normal

GRANTED = {
    "nothing": [],
    "labels": ["labels"],
    "scores": ["labels", "output"],
    "gradient": ["labels", "output", "value_and_grad", "jacobian"],
}


@pytest.mark.parametrize("access", GRANTED)
@pytest.mark.parametrize("ask", GRANTED["gradient"])
def test_a_view_gives_what_its_threat_model_grants_and_no_more(access, ask):
    x, view = images(2), View.on(Bare(conv()), seeds(2), access=access)

    def asked():
        return view.value_and_grad(goal_of(2).loss, x) if ask == "value_and_grad" else getattr(view, ask)(x)

    if ask in GRANTED[access]:
        asked()
    else:
        with pytest.raises(PermissionError, match=f"this threat model grants {access}, the attack asked for"):
            asked()
        assert view.counts.forward.sum() == 0


def test_labels_are_the_judges_with_rejections():
    model, x = conv(), images(8)
    view = View.on(Defended(Detector(model, threshold=0.5)), seeds(8), access="labels")
    bright = x.flatten(1).mean(dim=1) > 0.5
    assert bright.any() and not bright.all()
    assert view.labels(x).tolist() == torch.where(bright, -1, model(x).argmax(dim=1)).tolist()


def test_parts_are_given_only_where_the_threat_model_gives_them():
    defense, x = Detector(conv()), torch.rand(3, 2)
    with pytest.raises(PermissionError, match="no part 'scale'; it has: none"):
        View.on(Defended(defense), seeds(3)).part("scale")
    view = View.on(Defended(defense), seeds(3), parts=defense.parts())
    with pytest.raises(PermissionError, match="no part 'generator'; it has: scale"):
        view.part("generator")
    assert torch.allclose(view.part("scale")(x), defense.scale(x), atol=1e-6)  # computed in a padded batch


def test_the_purified_image_is_shown_to_who_holds_the_defense_and_counted():
    defense, x = Scale(conv()), images(SIZE + 1)
    view = View.on(Defended(defense), seeds(SIZE + 1))
    assert torch.allclose(view.purified(x), 0.5 * x)
    assert (view.counts.forward == 1).all() and not view.counts.calls.any()


@pytest.mark.parametrize("name", ["through", "purified"])
def test_the_purifier_is_open_only_to_who_holds_the_defense(name):
    closed = [
        View.on(Bare(conv()), seeds(2)),
        View.on(Defended(Scale(conv())), seeds(2), access="scores"),
        View.on(Defended(Scale(conv()), "cut"), seeds(2)),
    ]
    for view in closed:
        with pytest.raises(PermissionError):
            getattr(view, name)(images(2) if name == "purified" else (lambda x, seed: x))


def test_answer_is_the_defense_itself():
    defense, x, s = Noise(conv()), images(70), seeds(70)
    assert torch.allclose(answer(Defended(defense), x, s).logits, defense(x, s).logits, atol=1e-6)
    assert torch.equal(defense.purify(x, s), x + 0.5 * normal(s, SHAPE))


def test_blend_takes_new_rows_where_the_mask_says():
    new, old = torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2)
    assert blend(torch.tensor([True, False, True]), new, old).flatten(1).mean(dim=1).tolist() == [1, 0, 1]


def test_a_bare_classifier_ignores_the_seed_and_rejects_nothing():
    x = images(3)
    out = Bare(conv())(x, seeds(3))
    assert torch.equal(out.logits, Bare(conv())(x, seeds(3, cell=9)).logits) and out.scores.shape == (3, 0)
    assert not Bare(conv()).defended and Defended(Defense(conv())).defended


@pytest.mark.parametrize("name", THREATS)
def test_every_threat_model_is_named_as_it_is_registered_and_documented(name):
    threat = THREATS[name]()
    assert threat.name == name and inspect.getdoc(THREATS[name])
    assert threat.white == (name in ("white-box", "seed-known"))
    assert threat.holds_defense == (name in ("white-box", "seed-known", "query"))
    assert threat.copies == (name == "gray-box:copy")
    assert threat.differentiates == (threat.white or threat.copies)


def test_threat_models_keep_what_they_were_given():
    assert THREATS["query"](access="labels", limit=5).limit == 5
    assert THREATS["query"](access="labels").access == "labels"
    white = THREATS["white-box"](gradient="truncated", draws=7, unroll=3)
    assert (white.gradient, white.draws, white.unroll) == ("truncated", 7, 3)
    assert THREATS["seed-known"]().draws == 1


@pytest.mark.parametrize("has", [False, True])
def test_a_view_is_fast_only_where_the_device_multiplies_bfloat16_itself(has, monkeypatch):
    monkeypatch.setattr("robustbench_gan.contracts.view.multiplies_bfloat16", lambda device: has)
    x, goal, model = images(4), Goal.untargeted(torch.zeros(4, dtype=torch.int64)), conv()
    view, plain = (View.on(Bare(model), seeds(4), fast=fast) for fast in (True, False))
    same = torch.equal(view.value_and_grad(goal.loss, x)[1], plain.value_and_grad(goal.loss, x)[1])
    assert view.fast is has and same is not has and plain.fast is False

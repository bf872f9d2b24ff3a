"""What belongs to others is left as it was: who changes it is named, fails, and changes no number but its own."""

from __future__ import annotations

import re

import pytest
import torch
from planted_cells import Fixed, grey
from planted_changes import AROUND, MORE, VIEWED, WEIGHTS
from planted_meddlers import ENTRY_POINTS, Scaled
from planted_plugins import also_installed, cell, installed, judged, planned, workshop  # noqa: F401

from robustbench_gan.api.run_attack import run_attack
from robustbench_gan.base.tensors import Meddled
from robustbench_gan.guards.surroundings import Surroundings

meddlers = also_installed("meddlers", ENTRY_POINTS)


@pytest.fixture(scope="module")
def honest(tmp_path_factory, meddlers):
    """What FGSM comes to on each defense where nobody meddles."""
    return {
        defense: judged(cell(workshop(tmp_path_factory.mktemp("honest")), defenses=defense))
        for defense in ("none", "scaled")
    }


@pytest.fixture(scope="module")
def shared(tmp_path_factory, meddlers):
    """One workshop for all attacks that meddle: what one of them leaves behind, the next would meet."""
    return workshop(tmp_path_factory.mktemp("shared"))


@pytest.mark.parametrize("what", [*WEIGHTS, *AROUND, *VIEWED])
def test_an_attack_that_changes_what_is_not_its_own_fails_and_changes_no_other_cell(shared, honest, what):
    found = {**WEIGHTS, **AROUND, **VIEWED}[what][1]
    before = Surroundings(generators=True, thorough=True)
    result = cell(shared, attacks=f"meddles:what={what}", defenses="scaled")
    assert before.put_back() == []  # the test's own fault if not
    assert result.status == "failed" and result.outcomes is None
    assert result.reason == f"Meddled: the attack changed what is not its own: {found}"
    defense = "scaled" if what in VIEWED else "none"
    assert judged(cell(shared, defenses=defense)) == honest[defense]


def test_whatever_else_it_changes_of_the_process_or_of_our_code_is_put_back(shared, honest):
    before = Surroundings(generators=True, thorough=True)
    result = cell(shared, attacks="meddles:what=more", defenses="scaled")
    assert before.put_back() == []
    said = result.reason.removeprefix("Meddled: the attack changed what is not its own: ")
    assert set(said.split(", ")) == {found for _, found in MORE.values()}
    assert judged(cell(shared)) == honest["none"]


@pytest.mark.parametrize(
    ("who", "asked"),
    [("the attack", {"attacks": "edits-data"}), ("AnswersMeddle", {"defenses": "answers-meddle:what=data"})],
)
def test_whoever_edits_images_that_its_cell_does_not_judge_fails_as_well(shared, honest, who, asked):
    rows = shared.dataset(planned(shared)[0].cell.dataset).train.images
    before = rows.clone()
    for _ in range(2):
        result = cell(
            shared, threats="white-box:gradient=bpda" if "defenses" in asked else "white-box", **asked
        )
        assert result.status == "failed" and torch.equal(rows, before)
        assert result.reason == f"Meddled: {who} changed what is not its own: the train images"
    assert judged(cell(shared)) == honest["none"]


def test_run_attack_gives_the_model_back_as_it_was(meddlers):
    model, x = Fixed(3).eval().requires_grad_(False), grey().test.pixels(slice(0, 20))
    y = grey().test.labels[:20].clone()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    defense = Scaled(model).eval().requires_grad_(False)
    for what, (_, found) in {**WEIGHTS, "dtype": AROUND["dtype"], "goal": VIEWED["goal"]}.items():
        said = found.replace("the classifier", "the model").replace("(", "(base.")
        said = said.replace("(base.Fixed.", "(Fixed.")
        for name in ("parameters", "layers", "hooks") + ("code",) * ("Fixed." not in said):
            said = said.replace(f"the {name} of", f"the {name} (base) of")
        with pytest.raises(Meddled, match=re.escape(f"the attack changed what is not its own: {said}")):
            run_attack(f"meddles:what={what}", defense, x, y, epsilons=[0.1])
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
        assert torch.equal(y, grey().test.labels[:20]) and not model.training
    assert run_attack("meddles", defense, x, y, epsilons=[0.1]).success.any()


def test_an_attack_that_changes_nothing_and_a_defense_that_only_counts_are_left_alone(shop, honest):
    assert judged(cell(shop, attacks="meddles", defenses="scaled")) == honest["scaled"]


def test_a_poisoned_classifier_trains_no_substitute(shop, tmp_path):
    asked = {"attacks": "fgsm", "threats": "black-box:rounds=2"}
    alone = cell(workshop(tmp_path / "alone"), **asked)
    assert cell(shop, attacks="meddles:what=numpy").status == "failed"
    after = cell(shop, **asked)
    assert after.weights == alone.weights and "substitute" in alone.weights
    assert judged(after) == judged(alone)


def test_nor_does_an_attack_that_meddles_while_it_is_trained(shop, honest):
    result = cell(shop, attacks="meddles-in-fit")
    said = "Meddled: the attack, when it was trained, changed what is not its own: the weights (weight) of the classifier"
    assert result.status == "failed" and result.reason == said
    assert judged(cell(shop)) == honest["none"]


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("weights", "the weights (weight) of the classifier"), ("images", "the train images"),
        ("order", "the validation images"), ("labels", "the train labels"), ("dtype", "the default dtype"),
    ],
)  # fmt: skip
def test_a_defense_changes_nothing_of_others_in_its_fit(shop, honest, what, found):
    result = cell(shop, defenses=f"fit-meddles:what={what}")
    said = f"Meddled: fit-meddles, when it was fitted, changed what is not its own: {found}"
    assert result.status == "failed" and result.reason == said
    data, (name,) = grey(), {key[1] for key in shop.memory if key[0] == "dataset"}
    for part in ("train", "validation", "test"):
        split, held = getattr(data, part), getattr(shop.dataset(name), part)
        assert torch.equal(split.images, held.images) and torch.equal(split.labels, held.labels)
    assert judged(cell(shop)) == honest["none"]


@pytest.mark.parametrize("what", ["weights", "dtype", "environment"])
@pytest.mark.parametrize("attack", ["fgsm", "noise"])  # through the defense, and past it
def test_a_defense_that_meddles_while_it_answers_is_named_in_the_place_of_the_attack(
    shop, honest, what, attack
):
    result = cell(shop, defenses=f"answers-meddle:what={what}", attacks=attack, gradient="bpda")
    assert result.status == "failed"
    assert result.reason.startswith("Meddled: AnswersMeddle changed what is not its own: ")
    assert judged(cell(shop)) == honest["none"]


def test_a_classifier_that_changes_itself_is_named(shop):
    result = cell(shop, classifiers="drifting")
    assert result.status == "failed"
    said = "Meddled: the classifier changed what is not its own: the weights (mean) of the classifier"
    assert result.reason == said

"""What belongs to others is left as it was: who changes it is named, fails, and changes no number but its own."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from planted import separable
from planted_cells import Fixed, grey
from planted_meddlers import AROUND, EDITS, ENTRY_POINTS, FORMS, MORE, VIEWED, WEIGHTS, Scaled
from planted_plugins import also_installed, cell, installed, judged, planned, workshop  # noqa: F401
from torch import nn

from robustbench_gan.api.run_attack import run_attack
from robustbench_gan.base.tensors import Meddled, same
from robustbench_gan.data.dataset import Dataset, TrainingData
from robustbench_gan.guards.seal import Seal
from robustbench_gan.guards.surroundings import Surroundings

HONEST_FORMS = ("plain", "graph", "inference", "channels", "negative", "strided", "flipped")


meddlers = also_installed("meddlers", ENTRY_POINTS)


# ---- what is returned


@pytest.mark.parametrize("form", FORMS)
def test_examples_are_judged_by_their_values_and_only_where_they_are_a_plain_tensor(shop, form):
    result = cell(shop, attacks=f"returns:form={form}")
    if form in HONEST_FORMS:
        assert judged(result) == judged(cell(shop, attacks="fgsm"))
    else:
        assert result.status == "failed" and result.reason.startswith("AttackFault: the attack returned ")
        assert "\n" not in result.reason and len(result.reason) < 200


@pytest.mark.parametrize("hook", ["purify", "surrogate", "scores"])
@pytest.mark.parametrize("form", ["subclass", "sparse", "list"])
def test_a_defense_that_returns_no_plain_tensor_is_failed_and_named(shop, hook, form):
    result = cell(shop, defenses=f"returns-other:form={form},hook={hook}", gradient="bpda")
    assert result.status == "failed" and f"ReturnsOther.{hook} returned " in result.reason


# ---- what is handed over


@pytest.mark.parametrize(
    ("by", "samples"),  # a copy of the images, and a view of them with a rest
    [*((by, 130) for by in EDITS), ("clamp", 20), ("flip", 20), ("numpy", 20)],
)
def test_a_defense_that_edits_its_input_is_failed_and_named_at_every_size(shop, by, samples):
    result = cell(
        shop, defenses=f"edits-input:by={by}", samples=samples, datasets="grey:tests=300", attacks="noise"
    )
    assert result.status == "failed"
    assert result.reason.startswith("Meddled: EditsInput edited its input in place (x)")


@pytest.mark.parametrize("when", ["asked", "unasked"])
@pytest.mark.parametrize("batch_size", [7, 200])
def test_nor_is_the_attack_blamed_for_what_only_one_kind_of_pass_edits(shop, when, batch_size):
    result = cell(
        shop, defenses=f"edits-input:by=data,when={when}", attacks="pgd:steps=2", batch_size=batch_size
    )
    assert result.status == "failed" and result.reason.startswith("Meddled: EditsInput edited its input")


def test_an_edited_input_is_put_back_so_that_the_next_cell_is_right(shop):
    alone = judged(cell(workshop(shop.store.root / "alone"), samples=130, datasets="grey:tests=300"))
    assert (
        cell(shop, samples=130, datasets="grey:tests=300", defenses="edits-input:by=numpy").status == "failed"
    )
    assert judged(cell(shop, samples=130, datasets="grey:tests=300")) == alone


def test_a_detector_edits_nothing_either(shop):
    result = cell(shop, defenses="edits-scored")
    assert result.status == "failed"
    assert result.reason.startswith("Meddled: EditsScored edited its input in place (x and purified)")


# ---- what fit is given


@pytest.mark.parametrize("way", ["test", "holdout"])
def test_a_defense_does_not_see_the_images_it_is_judged_on(shop, way):
    result = cell(shop, defenses=f"nearest-test:way={way}")
    assert result.status == "failed"
    assert result.reason.startswith(
        "PermissionError: grey: a defense is fitted on train and validation alone"
    )


def test_nor_by_the_memory_that_splits_share():
    pool = separable(300)
    parts = [pool.train.take(slice(start, start + 100)) for start in (0, 100, 200)]
    whole = Dataset("one tensor", pool.classes, *parts)
    given = TrainingData(whole)
    for name in ("train", "validation"):
        split, own = getattr(whole, name), getattr(given, name)
        assert torch.equal(own.images, split.images) and torch.equal(own.labels, split.labels)
        for tensor in (own.images, own.labels):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
    assert (given.name, given.classes, given.shape, given.digest) == (
        whole.name, whole.classes, whole.shape, whole.digest,
    )  # fmt: skip
    assert whole.test not in vars(given).values() and "test" not in vars(given) and "test" not in repr(given)


def test_splits_of_their_own_are_not_copied():
    whole = grey()
    assert TrainingData(whole).train.images is whole.train.images


# ---- what belongs to others


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


# ---- what a network is


def test_a_network_that_calls_its_layers_by_other_names_is_another_one():
    model = nn.ModuleDict({"first": nn.Linear(2, 2), "second": nn.Linear(2, 2)})
    seal = Seal(model, "the model")
    first, second = model["first"], model["second"]
    model._modules.clear()
    model._modules.update(second=first, first=second)
    assert seal.put_back() == ["the layers of the model"]
    assert model["first"] is first and model["second"] is second


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_programs_have_fields_of_their_own_kind():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    programs = [
        torch.jit.script(net), torch.jit.freeze(torch.jit.script(net)), torch.jit.trace(net, torch.rand(2, 4)),
        torch.compile(net, backend="eager"), torch.export.export(net, (torch.rand(2, 4),)).module(),
    ]  # fmt: skip
    for program in programs:
        seal = Seal(program, "it")
        assert seal.put_back() == []
    seal = Seal(programs[0], "it")
    with torch.no_grad():
        next(programs[0].parameters()).add_(1)
    assert len(seal.put_back()) == 1


def test_hooks_that_a_weight_came_with_are_its_own_and_others_are_taken_off():
    weight = nn.Linear(2, 2).weight
    model = nn.Module()
    model.weight = weight
    weight.register_hook(own := lambda grad: grad.clamp(-1, 1))
    seal = Seal(model, "the model")
    assert seal.put_back() == []
    weight.register_hook(lambda grad: grad * 0)
    assert seal.put_back() == ["the hooks of the model"]
    assert [*weight._backward_hooks.values()] == [own]


def test_bits_are_compared_whatever_the_layout():
    x = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    x[0, 0, 0, 0], x[1, 0, 0, 0] = torch.nan, 0.0
    other = x.clone()
    assert same(x, other) and same(x.to_sparse(), other.to_sparse())
    other[1, 0, 0, 0] = -0.0
    assert not same(x, other)
    other[1, 0, 0, 0], other[0, 0, 0, 0] = 0.0, 0.0  # no NaN any more
    assert (
        not same(x, other) and not same(x.to_sparse(), other.to_sparse()) and not same(x, other.to_sparse())
    )


def test_older_versions_of_torch_lack_some_of_what_is_watched(monkeypatch):
    fewer = SimpleNamespace(
        **{name: value for name, value in vars(torch._C._autograd).items() if "_top_saved" not in name}
    )
    monkeypatch.setattr(torch._C, "_autograd", fewer)
    assert Surroundings().put_back() == []

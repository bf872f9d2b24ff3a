"""What a plugin returns and what it is handed: judged by its values, edited by nobody, and no image of the test."""

from __future__ import annotations

import pytest
import torch
from planted import separable
from planted_cells import grey
from planted_meddlers import ENTRY_POINTS
from planted_plugins import also_installed, cell, installed, judged, workshop  # noqa: F401
from planted_returns import EDITS, FORMS

from robustbench_gan.data.dataset import Dataset, TrainingData

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

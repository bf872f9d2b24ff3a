from __future__ import annotations

import pytest
import torch

from robustbench_gan.base.errors import UsageError
from robustbench_gan.data import Dataset, Split


def split(count: int, *, shape: tuple[int, ...] = (1, 2, 2), classes: int = 2, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count) % classes)


def dataset(**changes: object) -> Dataset:
    parts: dict[str, object] = {
        "name": "tiny",
        "classes": ("a", "b"),
        "train": split(6, seed=1),
        "validation": split(4, seed=2),
        "test": split(5, seed=3),
    }
    return Dataset(**{**parts, **changes})  # type: ignore[arg-type]


def test_pixels_are_the_bytes_over_255() -> None:
    every = Split(torch.arange(256, dtype=torch.uint8).view(64, 1, 2, 2), torch.zeros(64, dtype=torch.int64))
    pixels = every.pixels()
    assert pixels.dtype == torch.float32
    assert pixels.min() == 0 and pixels.max() == 1
    assert torch.equal((pixels * 255).round().to(torch.uint8), every.images)


@pytest.mark.parametrize(
    "index", [slice(1, 3), torch.tensor([3, 0]), torch.tensor([True, False, True, False])], ids=str
)
def test_pixels_and_take_choose_the_same_images(index: torch.Tensor | slice) -> None:
    whole = split(4)
    part = whole.take(index)
    assert len(part) == 2
    assert torch.equal(part.pixels(), whole.pixels(index))
    assert torch.equal(part.labels, whole.labels[index])


def test_pixels_leave_the_stored_images_alone() -> None:
    whole = split(4)
    before = whole.images.clone()
    whole.pixels().zero_()
    assert torch.equal(whole.images, before)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64), "images must be uint8"),
        (torch.zeros(2, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"\(2, 2, 2\)"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2), "labels must be int64"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, 1, dtype=torch.int64), "labels must be"),
        (
            torch.zeros(2, 1, 2, 2, dtype=torch.uint8),
            torch.zeros(3, dtype=torch.int64),
            "2 images .* 3 labels",
        ),
    ],
)
def test_split_refuses(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Split(images, labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "needs a name"),
        ({"classes": ("a",)}, "at least two classes"),
        ({"classes": ("a", "a")}, "all different"),
        ({"validation": split(0)}, "validation split has no images"),
        ({"train": split(3, shape=(1, 0, 2))}, "without pixels"),
        ({"test": split(3, shape=(3, 2, 2))}, "test images are"),
        ({"test": split(3, classes=3)}, "test labels run from 0 to 2, expected 0 to 1"),
        ({"train": Split(split(1).images, torch.tensor([-1]))}, "run from -1"),
    ],
)
def test_dataset_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dataset(**changes)


def test_shape_is_channels_height_width() -> None:
    parts = {part: split(2, shape=(3, 4, 5)) for part in ("train", "validation", "test")}
    assert dataset(**parts).shape == (3, 4, 5)


def test_digest_is_stable_and_known() -> None:
    images = torch.arange(8, dtype=torch.uint8).view(2, 1, 2, 2)
    fixed = Split(images, torch.tensor([0, 1]))
    known = Dataset("tiny", ("a", "b"), fixed, fixed, fixed)
    assert known.digest == "7b4e33d0a814429dbd5fa2ff01896b53909e5f5862f838b6db4e78670d940173"


def test_digest_does_not_depend_on_memory_layout() -> None:
    plain = split(6, shape=(3, 2, 2), seed=1)
    other = Split(plain.images.contiguous(memory_format=torch.channels_last), plain.labels)
    parts = {"validation": plain, "test": plain}
    assert dataset(train=plain, **parts).digest == dataset(train=other, **parts).digest


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"classes": ("a", "c")},
        {"classes": ("b", "a")},
        {"train": split(6, seed=9)},
        {"test": Split(split(5, seed=3).images, 1 - split(5).labels)},
        {"train": split(4, seed=2), "validation": split(6, seed=1)},
        {part: split(2, shape=(1, 4, 1)) for part in ("train", "validation", "test")},
    ],
)
def test_digest_tells_data_sets_apart(changes: dict[str, object]) -> None:
    assert dataset(**changes).digest != dataset().digest


def test_black_box_holdout_divides_the_test_split() -> None:
    whole = dataset(test=split(152))
    substitute, judged = whole.black_box_holdout()
    assert (len(substitute), len(judged)) == (150, 2)
    assert torch.equal(torch.cat([substitute.images, judged.images]), whole.test.images)
    assert torch.equal(torch.cat([substitute.labels, judged.labels]), whole.test.labels)


def test_black_box_holdout_needs_images_to_judge() -> None:
    with pytest.raises(UsageError, match=r"first 150 test images .* only 150"):
        dataset(test=split(150)).black_box_holdout()

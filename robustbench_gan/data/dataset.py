"""What every data set is made of: a `Split` of labelled images, a `Dataset` of three, and what of it may be learnt."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from robustbench_gan.base.errors import UsageError

HOLDOUT = 150
"""How many test images the attacker of the black-box threat model owns."""


@dataclass(frozen=True, eq=False)
class Split:
    """Holds labelled images as they were stored, so that nothing is rounded before a model sees them.

    Attributes:
        images: (N, C, H, W) uint8, 0 to 255.
        labels: (N,) int64, indices into the classes of the data set.

    Raises:
        UsageError: a wrong data type, a wrong number of dimensions, or unequal lengths.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4:
            found = f"{images.dtype} of shape {tuple(images.shape)}"
            raise UsageError(f"images must be uint8 of shape (N, C, H, W), not {found}")
        if labels.dtype != torch.int64 or labels.ndim != 1:
            found = f"{labels.dtype} of shape {tuple(labels.shape)}"
            raise UsageError(f"labels must be int64 of shape (N,), not {found}")
        if len(images) != len(labels):
            raise UsageError(f"{len(images)} images do not go with {len(labels)} labels")

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: Tensor | slice | None = None) -> Tensor:
        """Give the images as models take them: (N, C, H, W) float32 in [0, 1], the stored bytes over 255.

        Args:
            index: which images, as positions, a boolean mask or a slice; all of them when left out.
        """
        chosen = self.images if index is None else self.images[index]
        return chosen.to(torch.float32).div_(255)

    def take(self, index: Tensor | slice) -> Split:
        """Select images with their labels, as positions, a boolean mask or a slice, into a new split."""
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Holds the three splits of one data set and the names of its classes.

    Attributes:
        name: what results call this data set.
        classes: the name of each label, in label order.
        train: what models and defenses learn from.
        validation: what choices are made on.
        test: what is judged.

    Raises:
        UsageError: no name, fewer than two classes or a repeated one, an empty split, splits of unequal
            image shape, or a label outside the classes.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    def __post_init__(self) -> None:
        if not self.name:
            raise UsageError("a data set needs a name")
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise UsageError(f"{self.name}: at least two classes, all different, are needed: {self.classes}")
        for part, split in self._splits():
            self._check_split(part, split)

    def _check_split(self, part: str, split: Split) -> None:
        if len(split) == 0:
            raise UsageError(f"{self.name}: the {part} split has no images")
        shape = tuple(split.images.shape[1:])
        if 0 in shape:
            raise UsageError(f"{self.name}: the {part} split has images without pixels: {shape}")
        if shape != self.shape:
            raise UsageError(f"{self.name}: {part} images are {shape}, train images are {self.shape}")
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= len(self.classes):
            last = len(self.classes) - 1
            raise UsageError(f"{self.name}: {part} labels run from {low} to {high}, expected 0 to {last}")

    def _splits(self) -> tuple[tuple[str, Split], ...]:
        return ("train", self.train), ("validation", self.validation), ("test", self.test)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Give the shape of one image: channels, height, width."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @cached_property
    def digest(self) -> str:
        """Identify the data in recipes: SHA-256, in hexadecimal, of name, classes and every split.

        It is computed once, when first asked for, and does not depend on the device or the memory layout.
        """
        digest = hashlib.sha256()
        # JSON separates the names without doubt: ("a b",) and ("a", "b") give different text.
        digest.update(json.dumps([self.name, list(self.classes)]).encode())
        for part, split in self._splits():
            digest.update(json.dumps([part, list(split.images.shape)]).encode())
            for values in (split.images, split.labels):
                array = values.detach().cpu().contiguous().numpy()
                # Labels are hashed as little-endian bytes, so that all machines agree.
                little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                digest.update(little.reshape(-1).data)
        return digest.hexdigest()

    def black_box_holdout(self) -> tuple[Split, Split]:
        """Divide the test split for the black-box threat model: (the attacker's images, the judged ones).

        The first 150 test images train the attacker's substitute model; only the rest are judged.

        Raises:
            UsageError: the test split has 150 images or fewer, so none would be left to judge.
        """
        if len(self.test) <= HOLDOUT:
            raise UsageError(
                f"{self.name}: black-box attacks take the first {HOLDOUT} test images for the substitute and "
                f"judge the rest, but there are only {len(self.test)}; use a larger test split"
            )
        return self.test.take(slice(None, HOLDOUT)), self.test.take(slice(HOLDOUT, None))


class TrainingData(Dataset):
    """What a defense's `fit` is handed: train and validation under the name and digest of the whole.

    The test split is the judge's. It is not reachable from here: tensors that share memory with it are copied.
    """

    def __init__(self, whole: Dataset) -> None:
        secret = {t.untyped_storage().data_ptr() for t in (whole.test.images, whole.test.labels)}

        def own(split: Split) -> Split:
            held = (split.images, split.labels)
            shared = any(t.untyped_storage().data_ptr() in secret for t in held)
            return Split(*(t.clone() for t in held)) if shared else Split(*held)

        self.__dict__.update(
            name=whole.name, classes=whole.classes, digest=whole.digest,
            train=own(whole.train), validation=own(whole.validation),
        )  # fmt: skip

    @property
    def test(self) -> Split:  # type: ignore[override]
        """Raises PermissionError."""
        raise PermissionError(
            f"{self.name}: a defense is fitted on train and validation alone; the test split is the judge's"
        )

    def _splits(self) -> tuple[tuple[str, Split], ...]:
        return ("train", self.train), ("validation", self.validation)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(split)} {part}" for part, split in self._splits())
        return f"TrainingData({self.name!r}: {sizes} images)"

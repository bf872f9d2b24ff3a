"""MNIST, bundled with the package: 28x28 grey images of handwritten digits."""

from __future__ import annotations

from importlib import resources

import numpy as np
from numpy.typing import NDArray

from robustbench_gan.base.errors import UsageError
from robustbench_gan.data.dataset import Dataset
from robustbench_gan.data.idx import IdxFile, idx_split, read_idx

TRAIN = 50_000
"""How many of the official training images train; the 10,000 after them validate."""

TRAIN_IMAGES = IdxFile(
    "train-images-idx3-ubyte.gz",
    (60_000, 28, 28),
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
)
TRAIN_LABELS = IdxFile(
    "train-labels-idx1-ubyte.gz",
    (60_000,),
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
)
TEST_IMAGES = IdxFile(
    "t10k-images-idx3-ubyte.gz",
    (10_000, 28, 28),
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
)
TEST_LABELS = IdxFile(
    "t10k-labels-idx1-ubyte.gz",
    (10_000,),
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)


def mnist() -> Dataset:
    """Load MNIST: (1, 28, 28) images; 50,000 train, 10,000 validation, 10,000 test.

    Training images are the first 50,000 of the official training set, validation images the last 10,000.

    Raises:
        UsageError: a bundled file is missing, truncated or corrupt.
    """
    images, labels = _bundled(TRAIN_IMAGES), _bundled(TRAIN_LABELS)
    return Dataset(
        name="mnist",
        classes=tuple("0123456789"),
        train=idx_split(images[:TRAIN], labels[:TRAIN]),
        validation=idx_split(images[TRAIN:], labels[TRAIN:]),
        test=idx_split(_bundled(TEST_IMAGES), _bundled(TEST_LABELS)),
    )


def _bundled(expected: IdxFile) -> NDArray[np.uint8]:
    file = resources.files("robustbench_gan.data") / "mnist" / expected.name
    try:
        return read_idx(file.read_bytes(), expected, str(file))
    except OSError as error:
        problem = f"{file}: expected a file of the package, found none that can be read ({error})"
    except UsageError as error:
        problem = str(error)
    raise UsageError(f"{problem}; reinstall robustbench-gan")

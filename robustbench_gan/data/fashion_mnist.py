"""Fashion-MNIST, found on this machine or downloaded: 28x28 grey images of clothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robustbench_gan.data.dataset import Dataset
from robustbench_gan.data.idx import IdxFile, idx_split, read_idx
from robustbench_gan.data.sources import Wanted, obtain

URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
"""Where Zalando Research publishes the files; without TLS, but the content is checked by SHA-256."""

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

TRAIN = 50_000
"""How many of the official training images train; the 10,000 after them validate."""

TRAIN_IMAGES = IdxFile(
    "train-images-idx3-ubyte.gz",
    (60_000, 28, 28),
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
)
TRAIN_LABELS = IdxFile(
    "train-labels-idx1-ubyte.gz",
    (60_000,),
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
)
TEST_IMAGES = IdxFile(
    "t10k-images-idx3-ubyte.gz",
    (10_000, 28, 28),
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
)
TEST_LABELS = IdxFile(
    "t10k-labels-idx1-ubyte.gz",
    (10_000,),
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)


def fashion_mnist() -> Dataset:
    """Load Fashion-MNIST: (1, 28, 28) images; 50,000 train, 10,000 validation, 10,000 test.

    Training images are the first 50,000 of the official training set, validation images the last 10,000.
    Each file is taken from `$RBG_DATA_DIR/fashion-mnist`, `/usr/share/datasets/fashion-mnist` or the cache,
    else downloaded.

    Raises:
        UsageError: a file is damaged, or found nowhere and cannot be downloaded.
    """
    images, labels = _load(TRAIN_IMAGES), _load(TRAIN_LABELS)
    return Dataset(
        name="fashion-mnist",
        classes=CLASSES,
        train=idx_split(images[:TRAIN], labels[:TRAIN]),
        validation=idx_split(images[TRAIN:], labels[TRAIN:]),
        test=idx_split(_load(TEST_IMAGES), _load(TEST_LABELS)),
    )


def _load(expected: IdxFile) -> NDArray[np.uint8]:
    wanted = Wanted(
        dataset="fashion-mnist",
        file=expected.name,
        url=URL + expected.name,
        system_hint="on Debian: apt install dataset-fashion-mnist",
    )
    return obtain(wanted, partial(_read, expected=expected))


def _read(path: Path, expected: IdxFile) -> NDArray[np.uint8]:
    return read_idx(path.read_bytes(), expected, str(path))

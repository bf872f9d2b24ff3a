"""Any directory or .zip file of class-named folders of images, as a data set."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from collections.abc import Iterable, Sequence

import torch

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import expanded, no_file
from robustbench_gan.data.dataset import Dataset, Split
from robustbench_gan.data.decoded import kept
from robustbench_gan.data.layout import check_same, classes_under, parts_of
from robustbench_gan.data.listing import Listing, list_directory, list_zip
from robustbench_gan.data.pictures import MODES, File, Pictures, decode_all

MAX_SIZE = 1024


def folder(
    *,
    path: str,
    size: int = 32,
    channels: int = 3,
    test_fraction: float = 0.2,
    validation_fraction: float = 0.1,
    name: str = "",
) -> Dataset:
    """Load images from class-named folders, in a directory or a .zip file: (channels, size, size) images.

    The layout is `<class>/<image>`, or these folders below one for each part, whose names are read in upper or lower
    case, `training`, `testing`, `valid` and `validation` as well:

    - `train/` and `test/`: the train and the test split; a part of the train folder validates.
    - `train/`, `val/` and `test/`: the three splits.
    - `train/` and `val/`, as ImageNet comes: `val` is the test split, since that is what is judged on; a part of the
      train folder validates.

    A .zip file may have one more folder around all this. Files beside the class folders are ignored; all files in
    them must be images. Every image is turned upright as its EXIF says, converted to grey or RGB and, when its size
    differs, resized with antialiasing without keeping its proportions. Of an animation the first image is taken.
    Transparency is dropped, as `convert("RGB")` of torchvision's folders does, and a line says of how many images.
    Of 2,000 images and more the decoded pixels, up to 1 GiB, are kept in the cache until a file changes.

    Splits are made within each class and depend on the relative file names only: in the order of the
    SHA-256 of the names, the first images test, the next validate, and the rest train. Each split is in
    that order too, so any part of it is a mixture of the classes. The classes are sorted by name as texts, `10` before
    `2`, as in torchvision's `ImageFolder`; a line says so of numbers.

    Args:
        path: the directory or .zip file.
        size: height and width of the result in pixels, 1 to 1024.
        channels: 1 for grey, 3 for RGB.
        test_fraction: the part of every class that tests, between 0 and 1; not used where a folder tests.
        validation_fraction: the part of every class, or of its train folder, that validates, between 0 and 1; not used
            where a folder does.
        name: the name of the data set; the name of the file or directory when left out.

    Raises:
        UsageError: an argument out of range, no such file or directory, another layout, fewer than two
            classes, a class with too few images to split, or an image that cannot be read.
    """
    _check_arguments(size, channels, test_fraction, validation_fraction)
    root = expanded(path)
    what = no_file(root)
    if what == "it is a directory":
        listing = list_directory(root)
        return _load(listing, name or root.resolve().name, size, channels, test_fraction, validation_fraction)
    if what:
        raise UsageError(f"{path}: expected a directory or a .zip file; {what}")
    try:
        with zipfile.ZipFile(root) as archive:
            listing = list_zip(archive, path)
            return _load(listing, name or root.stem, size, channels, test_fraction, validation_fraction)
    except zipfile.BadZipFile as error:
        raise UsageError(f"{path}: expected a directory or a whole .zip file ({error})") from None


def _check_arguments(size: int, channels: int, test_fraction: float, validation_fraction: float) -> None:
    if not 1 <= size <= MAX_SIZE:
        raise UsageError(f"size is {size}: expected 1 to {MAX_SIZE} pixels")
    if channels not in MODES:
        raise UsageError(f"channels is {channels}: expected 1 (grey) or 3 (RGB)")
    fractions = {"test_fraction": test_fraction, "validation_fraction": validation_fraction}
    for what, value in fractions.items():
        if not 0 < value < 1:
            raise UsageError(f"{what} is {value}: expected a number between 0 and 1")
    if test_fraction + validation_fraction >= 1:
        raise UsageError(
            "test_fraction and validation_fraction leave nothing to train on: expected a sum below 1"
        )


def _load(
    listing: Listing, name: str, size: int, channels: int, test_fraction: float, validation_fraction: float
) -> Dataset:
    parts = parts_of(listing)
    if parts:
        by_part = {part: classes_under(listing, (parts[part],)) for part in parts}
        check_same(listing, parts, by_part)
        rest = by_part["train"]
        test = _flat(by_part["test" if "test" in parts else "val"])
        if len(parts) == 3:
            validation, remaining = _flat(by_part["val"]), rest
        else:
            validation, remaining = _divide(rest, validation_fraction, listing.source)
    else:
        everything = classes_under(listing, ())
        test, rest = _divide(everything, test_fraction, listing.source)
        # Of what the test split left, a larger part makes up the same part of the whole.
        validation, remaining = _divide(rest, validation_fraction / (1 - test_fraction), listing.source)
    classes = tuple(sorted(remaining))
    _say_order(listing.source, classes)
    label = {name: at for at, name in enumerate(classes)}
    files = sorted([*_flat(remaining), *validation, *test])
    found = _decoded(listing, files, size, channels)
    images, row = torch.from_numpy(found.images), {file: at for at, file in enumerate(files)}

    def split(own: Iterable[File]) -> Split:
        ordered = sorted(own, key=_rank)
        rows = torch.tensor([row[file] for file in ordered])
        return Split(images[rows], torch.tensor([label[file[-2]] for file in ordered]))

    return Dataset(
        name=name,
        classes=classes,
        train=split(_flat(remaining)),
        validation=split(validation),
        test=split(test),
    )


def _say_order(source: str, classes: Sequence[str]) -> None:
    """Say on standard error where numbers as names of classes are not in their order: a model may expect that."""
    if all(name.isdecimal() for name in classes) and list(classes) != sorted(classes, key=int):
        print(
            f"{source}: the classes are in the order of their names as texts, as in torchvision's ImageFolder: "
            f"{', '.join(classes[:4])}, ...; a model with another order of classes is judged wrongly.",
            file=sys.stderr,
        )


def _flat(classes: dict[str, list[File]]) -> list[File]:
    return [file for files in classes.values() for file in files]


def _decoded(listing: Listing, files: list[File], size: int, channels: int) -> Pictures:
    """The images of some files. Says on standard error what was dropped of them."""

    def make() -> Pictures:
        return decode_all(listing.source, files, listing.read, size, channels)

    found = kept(listing.place, files, size, channels, listing.look, make)
    if clear := found.transparent:
        print(
            f"{listing.source}: {len(clear)} of {len(files)} images have transparent pixels, {'/'.join(clear[0])} the "
            "first; their transparency is dropped, and the colours below it count.",
            file=sys.stderr,
        )
    return found


def _rank(file: File) -> tuple[str, File]:
    """Order files as if shuffled, but the same on every machine and with every version of every library."""
    return hashlib.sha256("/".join(file).encode("utf-8", "surrogateescape")).hexdigest(), file


def _divide(
    classes: dict[str, list[File]], fraction: float, source: str
) -> tuple[list[File], dict[str, list[File]]]:
    """Take a part of every class: (the files taken, the files left by class); neither lacks a class."""
    taken: list[File] = []
    left: dict[str, list[File]] = {}
    for name, files in classes.items():
        if len(files) < 2:
            raise UsageError(f"{source}: class {name!r} has too few images for three splits: expected more")
        count = min(max(round(len(files) * fraction), 1), len(files) - 1)
        ordered = sorted(files, key=_rank)
        taken += ordered[:count]
        left[name] = ordered[count:]
    return taken, left

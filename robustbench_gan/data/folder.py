"""Any directory or .zip file of class-named folders of images, as a data set."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from robustbench_gan.data.dataset import Dataset, Split
from robustbench_gan.errors import UsageError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats tried; Pillow knows more, some of which start other programs."""

MODES = {1: "L", 3: "RGB"}
"""How Pillow names images of one channel (grey) and of three (red, green, blue)."""

IGNORED = {"__MACOSX", "Thumbs.db", "desktop.ini"}
"""Names that desktops add by themselves; names starting with a dot are ignored as well."""

MAX_SIZE = 1024
MAX_BYTES = 64 << 20
MAX_PIXELS = 50_000_000
"""Above these, a file is refused rather than allowed to fill the memory."""

CHUNK = 256
"""Images per task of the thread pool: enough that the pool itself costs nothing."""


@dataclass(frozen=True)
class _Listing:
    """The folders and files under a root, as parts of their names relative to it, and how to read one."""

    source: str
    folders: frozenset[tuple[str, ...]]
    files: frozenset[tuple[str, ...]]
    read: Callable[[tuple[str, ...]], bytes]


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

    The layout is `<class>/<image>`, or `train/<class>/<image>` with `test/<class>/<image>`, which then are
    the train and test splits. A .zip file may have one more folder around all this. Files beside the class
    folders are ignored; all files in them must be images. Every image is converted to grey or RGB and, when
    its size differs, resized with antialiasing without keeping its proportions. Of an animation the first
    image is taken; transparency is dropped.

    Splits are made within each class and depend on the relative file names only: in the order of the
    SHA-256 of the names, the first images test, the next validate, and the rest train. Each split is in
    that order too, so any part of it is a mixture of the classes.

    Args:
        path: the directory or .zip file.
        size: height and width of the result in pixels, 1 to 1024.
        channels: 1 for grey, 3 for RGB.
        test_fraction: the part of every class that tests, between 0 and 1; not used where there are train and
            test folders.
        validation_fraction: the part of every class, or of its train folder, that validates, between 0 and 1.
        name: the name of the data set; the name of the file or directory when left out.

    Raises:
        UsageError: an argument out of range, no such file or directory, another layout, fewer than two
            classes, a class with too few images to split, or an image that cannot be read.
    """
    _check_arguments(size, channels, test_fraction, validation_fraction)
    root = Path(path).expanduser()
    if root.is_dir():
        listing = _list_directory(root)
        return _load(listing, name or root.resolve().name, size, channels, test_fraction, validation_fraction)
    if not root.is_file():
        raise UsageError(f"{path}: expected a directory or a .zip file, found nothing there")
    try:
        with zipfile.ZipFile(root) as archive:
            listing = _list_zip(archive, path)
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
    listing: _Listing, name: str, size: int, channels: int, test_fraction: float, validation_fraction: float
) -> Dataset:
    if _is_official(listing):
        train_files, test_files = _classes_under(listing, ("train",)), _classes_under(listing, ("test",))
        if set(train_files) != set(test_files):
            differing = ", ".join(sorted(set(train_files) ^ set(test_files)))
            raise UsageError(
                f"{listing.source}: expected the same classes in train and test, not so: {differing}"
            )
        test, rest = [file for files in test_files.values() for file in files], train_files
        validation_share = validation_fraction
    else:
        everything = _classes_under(listing, ())
        test, rest = _divide(everything, test_fraction, listing.source)
        # Of what the test split left, a larger part makes up the same part of the whole.
        validation_share = validation_fraction / (1 - test_fraction)
    validation, remaining = _divide(rest, validation_share, listing.source)
    train = [file for files in remaining.values() for file in files]
    classes = tuple(sorted(remaining))

    def split(files: Iterable[tuple[str, ...]]) -> Split:
        ordered = sorted(files, key=_rank)
        images = _decode_all(listing, ordered, size, channels)
        return Split(images, torch.tensor([classes.index(file[-2]) for file in ordered]))

    return Dataset(
        name=name, classes=classes, train=split(train), validation=split(validation), test=split(test)
    )


def _rank(file: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Order files as if shuffled, but the same on every machine and with every version of every library."""
    return hashlib.sha256("/".join(file).encode("utf-8", "surrogateescape")).hexdigest(), file


def _divide(
    classes: dict[str, list[tuple[str, ...]]], fraction: float, source: str
) -> tuple[list[tuple[str, ...]], dict[str, list[tuple[str, ...]]]]:
    """Take a part of every class: (the files taken, the files left by class); neither lacks a class."""
    taken: list[tuple[str, ...]] = []
    left: dict[str, list[tuple[str, ...]]] = {}
    for name, files in classes.items():
        if len(files) < 2:
            raise UsageError(f"{source}: class {name!r} has too few images for three splits: expected more")
        count = min(max(round(len(files) * fraction), 1), len(files) - 1)
        ordered = sorted(files, key=_rank)
        taken += ordered[:count]
        left[name] = ordered[count:]
    return taken, left


# ---- the layout of folders


def _is_official(listing: _Listing) -> bool:
    tops = {parts[0] for parts in listing.folders}
    if not {"train", "test"} <= tops:
        return False
    if others := sorted(tops - {"train", "test"}):
        names = ", ".join(others)
        raise UsageError(f"{listing.source}: expected nothing beside train and test, found {names}")
    return True


def _classes_under(listing: _Listing, base: tuple[str, ...]) -> dict[str, list[tuple[str, ...]]]:
    """Collect the files of every class folder directly under `base`, refusing any other layout."""
    depth = len(base)
    names = sorted(
        parts[depth] for parts in listing.folders if len(parts) == depth + 1 and parts[:depth] == base
    )
    classes: dict[str, list[tuple[str, ...]]] = {name: [] for name in names}
    for parts in sorted(listing.files):
        # Files beside the class folders, such as a readme, are no images of any class.
        if parts[:depth] != base or len(parts) == depth + 1:
            continue
        if len(parts) > depth + 2:
            found = "/".join(parts)
            raise UsageError(f"{listing.source}: expected <class>/<image> folders, found {found} deeper down")
        classes[parts[depth]].append(parts)
    _check_classes(classes, "/".join((listing.source, *base)))
    return classes


def _check_classes(classes: dict[str, list[tuple[str, ...]]], where: str) -> None:
    if len(classes) < 2:
        found = ", ".join(classes) or "none"
        raise UsageError(f"{where}: expected at least two folders named after classes, found {found}")
    if empty := [name for name, files in classes.items() if not files]:
        raise UsageError(f"{where}: expected images in every class folder, found none in {', '.join(empty)}")


def _is_ignored(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") or part in IGNORED for part in parts)


# ---- directories


def _list_directory(root: Path) -> _Listing:
    folders: set[tuple[str, ...]] = set()
    files: set[tuple[str, ...]] = set()
    _walk(root, (), folders, files)

    def read(parts: tuple[str, ...]) -> bytes:
        file = root.joinpath(*parts)
        _check_bytes(file.stat().st_size)
        return file.read_bytes()

    return _Listing(str(root), frozenset(folders), frozenset(files), read)


def _walk(
    directory: Path, base: tuple[str, ...], folders: set[tuple[str, ...]], files: set[tuple[str, ...]]
) -> None:
    # Linked folders are followed, as people link data sets together; the depth ends any circle of links.
    try:
        entries = list(os.scandir(directory))
    except OSError as error:
        raise UsageError(f"{directory}: expected a directory that can be read ({error})") from None
    for entry in entries:
        parts = (*base, entry.name)
        if _is_ignored([entry.name]):
            continue
        if not entry.is_dir():
            files.add(parts)
        elif len(parts) > 3:
            raise UsageError(f"{directory}: expected <class>/<image> folders, found {entry.name} deeper down")
        else:
            folders.add(parts)
            _walk(directory / entry.name, parts, folders, files)


# ---- .zip files


def _list_zip(archive: zipfile.ZipFile, source: str) -> _Listing:
    """List the members; their names serve as names of classes and images, never as paths of this machine."""
    members: dict[tuple[str, ...], zipfile.ZipInfo] = {}
    folders: set[tuple[str, ...]] = set()
    for info in archive.infolist():
        parts = _member_parts(info.filename, source)
        if _is_ignored(parts):
            continue
        folders.update(parts[:end] for end in range(1, len(parts) + info.is_dir()))
        if info.is_dir():
            continue
        if parts in members:
            raise UsageError(f"{source}: expected every name once, found {info.filename} twice")
        members[parts] = info
    members, folders = _without_top(members, folders)

    def read(parts: tuple[str, ...]) -> bytes:
        _check_bytes(members[parts].file_size)
        return archive.read(members[parts])

    return _Listing(source, frozenset(folders), frozenset(members), read)


def _member_parts(name: str, source: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    # Nothing is written to disk, so such names could do no harm; but whoever made them meant some.
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        raise UsageError(f"{source}: expected relative names of images in it, found {name!r}")
    return path.parts


def _without_top(
    members: dict[tuple[str, ...], zipfile.ZipInfo], folders: set[tuple[str, ...]]
) -> tuple[dict[tuple[str, ...], zipfile.ZipInfo], set[tuple[str, ...]]]:
    """Drop the one folder around all others, if there is one."""
    names = {parts[0] for parts in (*members, *folders)}
    if len(names) != 1 or not any(len(parts) == 2 for parts in folders):
        return members, folders
    return {parts[1:]: info for parts, info in members.items()}, {parts[1:] for parts in folders if parts[1:]}


# ---- images


def _check_bytes(count: int) -> None:
    if count > MAX_BYTES:
        raise UsageError(f"it has {count} bytes, at most {MAX_BYTES} are allowed")


def _decode_all(
    listing: _Listing, files: Sequence[tuple[str, ...]], size: int, channels: int
) -> torch.Tensor:
    images = np.empty((len(files), channels, size, size), dtype=np.uint8)

    def decode(start: int) -> None:
        for position, file in enumerate(files[start : start + CHUNK], start):
            images[position] = _decode(listing, file, size, MODES[channels])

    # Pillow lets other threads run while it decodes. The first damaged file, in order, is the one reported.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        try:
            for _ in pool.map(decode, range(0, len(files), CHUNK)):
                pass
        except UsageError:
            pool.shutdown(cancel_futures=True)
            raise
    return torch.from_numpy(images)


def _decode(listing: _Listing, file: tuple[str, ...], size: int, mode: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(listing.read(file)), formats=FORMATS) as image:
            return _to_array(image, size, mode)
    except Exception as error:
        # Decoders of damaged files fail in many ways, and the file must be named whichever it is.
        place = "/".join((listing.source, *file))
        raise UsageError(f"{place}: expected an image that can be read ({error})") from error


def _to_array(image: Image.Image, size: int, mode: str) -> NDArray[np.uint8]:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UsageError(f"it is {width}x{height}, at most {MAX_PIXELS} pixels are allowed")
    if image.mode.startswith(("I", "F")):
        # Pillow would clip the values at 255 instead of scaling them.
        raise UsageError(f"it has more than 8 bits per channel (mode {image.mode})")
    converted = image.convert(mode)
    if converted.size != (size, size):
        converted = converted.resize((size, size), Image.Resampling.BICUBIC)
    array = np.asarray(converted, dtype=np.uint8)
    return array[np.newaxis] if array.ndim == 2 else array.transpose(2, 0, 1)

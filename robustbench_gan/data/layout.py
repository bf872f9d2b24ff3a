"""How the folders of a data set are laid out: by parts and classes, or by classes alone."""

from __future__ import annotations

from robustbench_gan.base.errors import UsageError
from robustbench_gan.data.listing import Listing
from robustbench_gan.data.pictures import File

PARTS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation", "validate", "dev"),
}
"""How the folders of a data set that comes divided are called, in upper or lower case."""


def parts_of(listing: Listing) -> dict[str, str]:
    """The folders of the parts that a data set comes in, by what they are; none where the top ones are classes."""
    tops = sorted({parts[0] for parts in listing.folders})
    found: dict[str, list[str]] = {
        part: [top for top in tops if top.lower() in names] for part, names in PARTS.items()
    }
    found = {part: folders for part, folders in found.items() if folders}
    if "train" not in found or len(found) < 2:
        divided = found and not any(len(file) == 2 for file in listing.files)
        if divided and len(tops) == sum(map(len, found.values())):
            raise UsageError(
                f"{listing.source}: expected train with test or val, found {', '.join(tops)} alone; give the path of "
                "the folder that holds the classes to have it divided"
            )
        return {}
    if twice := [folders for folders in found.values() if len(folders) > 1]:
        raise UsageError(f"{listing.source}: {' and '.join(twice[0])} are the same part: keep one of them")
    known = [folders[0] for folders in found.values()]
    if others := [top for top in tops if top not in known]:
        raise UsageError(
            f"{listing.source}: expected nothing beside {' and '.join(known)}, found {', '.join(others)}"
        )
    return {part: folders[0] for part, folders in found.items()}


def check_same(listing: Listing, parts: dict[str, str], by_part: dict[str, dict[str, list[File]]]) -> None:
    """Raise UsageError where a part lacks a class that another has."""
    for part in parts:
        if differing := sorted(set(by_part[part]) ^ set(by_part["train"])):
            shown = ", ".join(differing[:5]) + (
                f" and {len(differing) - 5} more" if len(differing) > 5 else ""
            )
            raise UsageError(
                f"{listing.source}: expected the same classes in {parts['train']} and {parts[part]}, not so: {shown}"
            )


def classes_under(listing: Listing, base: File) -> dict[str, list[File]]:
    """Collect the files of every class folder directly under `base`, refusing any other layout."""
    depth = len(base)
    names = sorted(
        parts[depth] for parts in listing.folders if len(parts) == depth + 1 and parts[:depth] == base
    )
    classes: dict[str, list[File]] = {name: [] for name in names}
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


def _check_classes(classes: dict[str, list[File]], where: str) -> None:
    if len(classes) < 2:
        found = ", ".join(classes) or "none"
        raise UsageError(f"{where}: expected at least two folders named after classes, found {found}")
    if empty := [name for name, files in classes.items() if not files]:
        raise UsageError(f"{where}: expected images in every class folder, found none in {', '.join(empty)}")

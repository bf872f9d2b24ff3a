"""The folders and files of a data set, in a directory or a .zip file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import expanded, no_file
from robustbench_gan.data.decoded import State, state_of
from robustbench_gan.data.pictures import File, check_bytes

IGNORED = {"__MACOSX", "Thumbs.db", "desktop.ini"}
"""Names that desktops add by themselves; names starting with a dot are ignored as well."""


@dataclass(frozen=True)
class Listing:
    """The folders and files under a root, as parts of their names relative to it, and how to read one."""

    source: str
    place: Path
    folders: frozenset[File]
    files: frozenset[File]
    read: Callable[[File], bytes]
    look: Callable[[], dict[File, State]]


def _is_ignored(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") or part in IGNORED for part in parts)


def list_directory(root: Path) -> Listing:
    """List all below a directory, links followed. Raises UsageError for folders too deep and what cannot be read."""
    folders: set[File] = set()
    files: set[File] = set()
    _walk(root, (), folders, files)

    def read(parts: File) -> bytes:
        file = root.joinpath(*parts)
        if why := no_file(file):
            raise UsageError(why)
        check_bytes(file.stat().st_size)
        return file.read_bytes()

    def look() -> dict[File, State]:
        return {parts: state_of(root.joinpath(*parts).stat()) for parts in files}

    return Listing(str(root), root, frozenset(folders), frozenset(files), read, look)


def _walk(directory: Path, base: File, folders: set[File], files: set[File]) -> None:
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


def list_zip(archive: zipfile.ZipFile, source: str) -> Listing:
    """List the members; their names serve as names of classes and images, never as paths of this machine."""
    members: dict[File, zipfile.ZipInfo] = {}
    folders: set[File] = set()
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

    def read(parts: File) -> bytes:
        check_bytes(members[parts].file_size)
        return archive.read(members[parts])

    place = expanded(source)
    return Listing(
        source, place, frozenset(folders), frozenset(members), read, lambda: {(): state_of(place.stat())}
    )


def _member_parts(name: str, source: str) -> File:
    path = PurePosixPath(name)
    # Nothing is written to disk, so such names could do no harm; but whoever made them meant some.
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        raise UsageError(f"{source}: expected relative names of images in it, found {name!r}")
    return path.parts


def _without_top(
    members: dict[File, zipfile.ZipInfo], folders: set[File]
) -> tuple[dict[File, zipfile.ZipInfo], set[File]]:
    """Drop the one folder around all others, if there is one."""
    names = {parts[0] for parts in (*members, *folders)}
    if len(names) != 1 or not any(len(parts) == 2 for parts in folders):
        return members, folders
    return {parts[1:]: info for parts, info in members.items()}, {parts[1:] for parts in folders if parts[1:]}

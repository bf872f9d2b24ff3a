"""What a user brings by a path, classifier files and data: told apart by what they hold.

Paths are private, and two files of one name are two things: records call each by its base name and the first digits of
a hash of its content, as in `mine.py:make@3fa9c2d1`.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from robustbench_gan.base.digests import INSTALLED, digest_of, file_digest, files_digest, with_imports
from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import expanded, no_file
from robustbench_gan.base.python_file import packages_above
from robustbench_gan.nouns.spec import Classifier, FileReference, Spec

MOST = 500  # entries of a directory that are looked at


@dataclass(frozen=True)
class Own:
    """Something of the user's: what leads to it on this machine, and a hash of what it held when it was planned.

    `copies` lead to the same content.
    """

    place: Classifier
    digest: str
    copies: tuple[Classifier, ...] = ()

    def __str__(self) -> str:
        also = f", and so is {' and '.join(map(str, self.copies))}" if self.copies else ""
        return f"{self.place}{also}"


def file_of(given: FileReference) -> Path:
    """The Python file, `~` written out."""
    return expanded(str(given.path))


def user_digest(given: FileReference) -> str:
    """A hash of a user's own model file, of the files beside it that it imports or names, and of the weights.

    Raises UsageError when one cannot be read.
    """
    path = file_of(given)
    try:
        code = _code(path)
        parts = [files_digest(code), *map(_content, sorted(_named(path, code) - code))]
        if given.weights is not None:
            path = given.weights
            parts.append(_content(path))
    except (OSError, SyntaxError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"--classifier {given.source}: cannot read {path}: {why}.") from error
    return digest_of(parts)


def unseen(given: FileReference, opened: Iterable[Path]) -> Path | None:
    """A file among those opened that lies below a user's model file and is no part of `user_digest`; None if none.

    A change there would go unnoticed.
    """
    path = file_of(given)
    code = _code(path)
    seen, roots = {*code, *_named(path, code)}, (path.absolute().parent, path.resolve().parent)
    for file in sorted(opened):
        below = any(place.is_relative_to(root) for place in (file, file.resolve()) for root in roots)
        compiled = file.suffix in (".pyc", ".so", ".pyd") or set(file.parts) & {"__pycache__", *INSTALLED}
        if below and not compiled and file.resolve() not in seen and not no_file(file):
            return file
    return None


def with_files(code: str, spec: Spec) -> str:
    """A hash of code, and of the files that a registered name's parameters lead to; `code` itself without any.

    A text is taken for a file's path where it has a directory or an ending and such a file is there.
    """
    found = [_content(path) for path in _given(spec)]
    return digest_of([code, *found]) if found else code


def _code(path: Path) -> set[Path]:
    """A user's Python file, what it imports that lies beside it, and the packages that it lies in."""
    return {file for each in [path, *packages_above(path)] for file in with_imports(each)}


def _given(spec: Spec) -> Iterator[Path]:
    for _, value in spec.params:
        if isinstance(value, Spec):
            yield from _given(value)
        elif isinstance(value, str):
            path = expanded(value)
            if (path.suffix or len(path.parts) > 1) and not no_file(path):
                yield path


def _content(path: Path) -> str:
    if path.suffix == ".py":
        with contextlib.suppress(SyntaxError):  # of another Python, or a template
            return file_digest(path)
    if why := no_file(path):
        raise OSError(0, why)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _named(path: Path, code: set[Path]) -> set[Path]:
    """Files below a Python file's directory that texts in its code name: settings, modules it loads itself."""
    texts = {
        node.value
        for file in code
        for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    roots, found = {path.absolute().parent, path.resolve().parent}, set[Path]()
    for root in roots:
        places = [root / name for text in texts for name in _names(text)]
        # Paths are put together from parts (`here / "settings" / "net.json"`) and by pattern.
        places += [place for place in _near(root) if place.name in texts]
        places += [path.with_suffix(text) for text in texts if re.fullmatch(r"\.\w+", text)]
        places += [place for text in texts if "*" in text for place in _near(root, 1) if place.match(text)]
        # Names are put together from parts (`f"weights-{fold}.npz"`): what they may end with is known.
        tails = tuple(text for text in texts if re.fullmatch(r"[^/\s*]*\.\w{1,12}", text))
        places += [place for place in _near(root) if tails and place.name.endswith(tails)]
        found.update(place.resolve() for place in places if not no_file(place))
    return found


def _near(root: Path, depth: int = 2) -> Iterator[Path]:
    """What lies in a directory, and in those in it: as much as a user's own settings may take."""
    inside: list[Path] = []
    with contextlib.suppress(OSError):  # one that nobody may look into
        inside = sorted(place for place in root.iterdir() if not place.name.startswith("."))[:MOST]
    yield from inside
    for place in inside:
        if depth > 1 and place.is_dir() and place.name != "__pycache__":
            yield from _near(place, depth - 1)


def _names(text: str) -> Iterator[str]:
    """A text as a path, and as a module's dotted name; nothing where it can be neither."""
    if 0 < len(text) < 256 and text.isprintable() and ".." not in Path(text).parts:
        yield text
        yield f"{text.replace('.', '/')}.py"

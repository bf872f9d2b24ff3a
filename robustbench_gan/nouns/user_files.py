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
from robustbench_gan.base.errors import UsageError, plain
from robustbench_gan.base.files import expanded, no_file
from robustbench_gan.base.python_file import packages_above
from robustbench_gan.nouns.spec import Spec

DIGITS = 8
MOST = 500  # entries of a directory that are looked at
FORM = "path/to/file.py:factory@weights.safetensors"
_REFERENCE = re.compile(r"(?P<path>.+?\.py):(?P<factory>[^\W\d]\w*)(?:@(?P<weights>.+))?", re.DOTALL)


def path_of(reference: str) -> Path:
    """The file of `path/to/file.py:factory`, `~` written out."""
    return expanded(reference.rpartition(":")[0])


@dataclass(frozen=True)
class Own:
    """Something of the user's: what leads to it on this machine, and a hash of what it held when it was planned.

    `copies` lead to the same content.
    """

    place: str
    digest: str
    copies: tuple[str, ...] = ()

    def __str__(self) -> str:
        also = f", and so is {' and '.join(self.copies)}" if self.copies else ""
        return f"{self.place}{also}"


@dataclass(frozen=True)
class FileReference:
    """A classifier given as a Python file, a factory in it and, here or by --weights, a file of weights."""

    path: Path
    factory: str
    weights: Path | None = None

    @classmethod
    def parse(cls, text: str) -> FileReference:
        """Read `path/to/file.py:factory`, with `@weights.safetensors` or without. Raises UsageError for others."""
        found = _REFERENCE.fullmatch(text.strip())
        if found is None:
            raise UsageError(
                f"cannot read --classifier {text!r}: expected path/to/file.py:factory or {FORM}."
            )
        weights = found["weights"]
        return cls(Path(found["path"]), found["factory"], None if weights is None else expanded(weights))

    def __str__(self) -> str:
        return f"{self.source}@{self.weights}" if self.weights else self.source

    @property
    def source(self) -> str:
        """The file and its factory alone."""
        return f"{self.path}:{self.factory}"

    def published(self, digest: str) -> str:
        """What records call it: without its directory, with the digits that tell it from its namesakes."""
        return f"{plain(self.path.name)}:{self.factory}@{digest[:DIGITS]}"


def is_file_reference(text: str) -> bool:
    """`path/to/file.py:factory`, or what a record makes of it, rather than a registered name."""
    return ".py:" in text


def user_digest(weights: Path | None, source: str) -> str:
    """A hash of a user's own model file, of the files beside it that it imports or names, and of the weights.

    Raises UsageError when one cannot be read.
    """
    path = path_of(FileReference.parse(source).source)
    try:
        code = _code(path)
        parts = [files_digest(code), *map(_content, sorted(_named(path, code) - code))]
        if weights is not None:
            path = weights
            parts.append(_content(path))
    except (OSError, SyntaxError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"--classifier {source}: cannot read {path}: {why}.") from error
    return digest_of(parts)


def unseen(source: str, opened: Iterable[Path]) -> Path | None:
    """A file among those opened that lies below a user's model file and is no part of `user_digest`; None if none.

    A change there would go unnoticed.
    """
    path = path_of(FileReference.parse(source).source)
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

"""Hashes of source code: what recipes and cells hold, so that no result outlives the code that made it. No torch.

Docstrings, comment lines and blank lines decide nothing and are left out: mending a sentence retrains nothing. Nor does
it matter where a file lies: of what is imported from our own packages the names count and not the modules they come
from, and files are ordered by what they hold.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import decode_source
from pathlib import Path
from typing import Any, TypeGuard

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
INSTALLED = ("site-packages", "dist-packages")  # where modules that stand side by side have nothing in common
CORE = __name__.partition(".")[0]


def code_digest(target: Any) -> str:
    """A hash of the code that decides what `target` does: its module's and that of those of its package it uses.

    A module without a package counts the modules that lie beside it, unless it lies where packages are installed.
    """
    module = sys.modules[target.__module__]
    package = module.__name__.partition(".")[0]
    roots = [Path(root) for root in getattr(sys.modules.get(package), "__path__", [])]
    path = Path(str(module.__file__))
    return files_digest(
        _reached(path, package, roots, None if roots else _beside(path)), package if roots else ""
    )


def file_digest(path: Path) -> str:
    """`code_digest` of a Python file that is no plugin."""
    return files_digest(with_imports(path))


def with_imports(path: Path) -> set[Path]:
    """A Python file that is no plugin, and the files beside it that its imports lead to."""
    path = path.resolve()  # however it was written; what a link leads to imports from its own directory
    return _reached(path, "", [], _beside(path))


def files_digest(paths: Iterable[Path], package: str = "") -> str:
    """A hash of the code in some files, those of one package or of none, wherever they lie."""
    return digest_of(sorted(code_of(path.read_bytes(), package) for path in paths))


def module_digest(target: Any) -> str:
    """A hash of the code in the one file that defines `target`: what a recipe holds, so that no other retrains."""
    module = sys.modules[target.__module__]
    return files_digest([Path(str(module.__file__))], module.__name__.partition(".")[0])


def digest_of(parts: Iterable[str]) -> str:
    """A short hash of texts in order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@functools.cache
def code_of(source: bytes, package: str = "") -> str:
    """The lines of a file that decide what it does: without docstrings, comment lines and blank ones.

    Lines inside any other string stay as they are, and so does a docstring that shares its line with code. Lines
    and not the syntax tree: that one looks different from one Python to the next. Imports from the core, the file's
    own `package` or relative ones are left out for the names that they bring, listed at the end.
    """
    nodes, lines = _nodes(source), decode_source(source).split("\n")
    left_out = {number for node in nodes for number in _docstring(node, lines)}
    brought: set[str] = set()
    for node in nodes:
        if _is_own(node, {CORE, package}) and (alone := _alone(node, lines)):
            left_out |= set(alone)
            brought |= {_brought(alias) for alias in node.names}
    strings = {
        number
        for node in nodes
        if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno is not None
        for number in range(node.lineno + 1, node.end_lineno + 1)
    }
    kept = [
        line
        for number, line in enumerate(lines, 1)
        if number not in left_out and (number in strings or not _says_nothing(line))
    ]
    return "\n".join([*kept, *sorted(brought)])


@functools.cache
def _nodes(source: bytes) -> tuple[ast.AST, ...]:
    """The few nodes of a file's syntax tree that are looked at: what is documented, imports and strings."""
    kinds = (*DOCUMENTED, ast.Import, ast.ImportFrom, ast.Constant, ast.JoinedStr)
    return tuple(node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))


def _is_own(node: ast.AST, packages: set[str]) -> TypeGuard[ast.Import | ast.ImportFrom]:
    """Does a node import from one of these packages, and nothing else?"""
    if isinstance(node, ast.ImportFrom):
        return node.level > 0 or (node.module or "").partition(".")[0] in packages
    return isinstance(node, ast.Import) and all(a.name.partition(".")[0] in packages for a in node.names)


def _brought(alias: ast.alias) -> str:
    """What an import calls a thing: its name, and another where it is given one."""
    name = alias.name.rpartition(".")[2]
    return f"import {name} as {alias.asname}" if alias.asname not in (None, name) else f"import {name}"


def _alone(node: ast.stmt, lines: Sequence[str]) -> range:
    """The numbers of the lines that a statement has for itself; none where it shares one with other code."""
    last = node.end_lineno or node.lineno
    before = lines[node.lineno - 1].encode()[: node.col_offset]
    after = lines[last - 1].encode()[node.end_col_offset :]
    alone = not before.strip() and _says_nothing(after.decode())
    return range(node.lineno, last + 1) if alone else range(0)


def _docstring(node: ast.AST, lines: Sequence[str]) -> range:
    """The numbers of the lines that a node's docstring has for itself."""
    if not isinstance(node, DOCUMENTED) or ast.get_docstring(node, clean=False) is None:
        return range(0)
    return _alone(node.body[0], lines)


def _says_nothing(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _beside(path: Path) -> Path | None:
    return None if path.parent.name in INSTALLED else path.parent


def _reached(path: Path, package: str, roots: Sequence[Path], beside: Path | None) -> set[Path]:
    """The files that the imports of one lead to: inside its package, and below the directory `beside` it."""
    found: set[Path] = set()
    todo = [path]
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            for stem in _imported(path, package, roots, beside):
                files = stem.with_name(f"{stem.name}.py"), stem / "__init__.py"
                todo += [file for file in files if file.is_file()]
    return found


def _imported(path: Path, package: str, roots: Sequence[Path], beside: Path | None) -> Iterator[Path]:
    """What the import statements of one file may mean there, as paths without a suffix."""
    for level, dotted in _import_statements(path.read_bytes()):
        for name in dotted:
            if level:
                yield path.parents[level - 1].joinpath(*name)
                if beside is not None:  # the packages on the way run as well
                    yield from (path.parents[level - 1].joinpath(*name[:end]) for end in range(1, len(name)))
            elif name[0] == package:
                yield from (root.joinpath(*name[1:]) for root in roots)
            elif beside is not None and name[0] != CORE:
                yield from (beside.joinpath(*name[:end]) for end in range(1, len(name) + 1))


@functools.cache
def _import_statements(source: bytes) -> tuple[tuple[int, tuple[list[str], ...]], ...]:
    """The imports of a file: how many packages up each begins, and the names it may mean, in parts."""
    found: list[tuple[int, tuple[list[str], ...]]] = []
    for node in _nodes(source):
        if isinstance(node, ast.Import):
            found.append((0, tuple(alias.name.split(".") for alias in node.names)))
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            found.append((node.level, (base, *([*base, alias.name] for alias in node.names))))
    return tuple(found)

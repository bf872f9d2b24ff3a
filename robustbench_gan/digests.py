"""Hashes of source code: what recipes and cells hold, so that no result outlives the code that made it. No torch.

Docstrings, comment lines and blank lines decide nothing and are left out: mending a sentence retrains nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import decode_source
from pathlib import Path
from types import ModuleType
from typing import Any

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_digest(target: Any) -> str:
    """A hash of the code that decides what `target` does: its module's and that of those of its package it uses."""
    sources = sorted(_sources(sys.modules[target.__module__]))
    return digest_of(code_of(path.read_bytes()) for path in sources)


def module_digest(target: Any) -> str:
    """A hash of the code in the one file that defines `target`: what a recipe holds, so that no other retrains."""
    return digest_of([code_of(Path(str(sys.modules[target.__module__].__file__)).read_bytes())])


def digest_of(parts: Iterable[str]) -> str:
    """A short hash of texts in order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@functools.cache
def code_of(source: bytes) -> str:
    """The lines of a file that decide what it does: without docstrings, comment lines and blank ones.

    Lines inside any other string stay as they are, and so does a docstring that shares its line with code. Lines
    and not the syntax tree: that one looks different from one Python to the next.
    """
    tree, lines = ast.parse(source), decode_source(source).split("\n")
    left_out = {number for node in ast.walk(tree) for number in _docstring(node, lines)}
    strings = {
        number
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno is not None
        for number in range(node.lineno + 1, node.end_lineno + 1)
    }
    kept = [
        line
        for number, line in enumerate(lines, 1)
        if number not in left_out and (number in strings or not _says_nothing(line))
    ]
    return "\n".join(kept)


def _docstring(node: ast.AST, lines: Sequence[str]) -> range:
    """The numbers of the lines that a node's docstring has for itself."""
    if not isinstance(node, DOCUMENTED) or ast.get_docstring(node, clean=False) is None:
        return range(0)
    text = node.body[0]
    last = text.end_lineno or text.lineno
    before = lines[text.lineno - 1].encode()[: text.col_offset]
    after = lines[last - 1].encode()[text.end_col_offset :]
    alone = not before.strip() and _says_nothing(after.decode())
    return range(text.lineno, last + 1) if alone else range(0)


def _says_nothing(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _sources(module: ModuleType) -> set[Path]:
    """Source files that a module's imports reach, wherever they stand, inside its own top-level package."""
    package = module.__name__.partition(".")[0]
    roots = [Path(root) for root in getattr(sys.modules.get(package), "__path__", [])]
    found: set[Path] = set()
    todo = [Path(module.__file__)] if module.__file__ else []
    while todo:
        path = todo.pop()
        if path not in found:
            found.add(path)
            for stem in _imported(path, package, roots):
                files = stem.with_name(f"{stem.name}.py"), stem / "__init__.py"
                todo += [file for file in files if file.is_file()]
    return found


def _imported(path: Path, package: str, roots: Sequence[Path]) -> Iterator[Path]:
    """What the import statements of one file may mean inside its package, as paths without a suffix."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            level, dotted = 0, [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".") if node.module else []
            level, dotted = node.level, [base, *([*base, alias.name] for alias in node.names)]
        else:
            continue
        for name in dotted:
            if level:
                yield path.parents[level - 1].joinpath(*name)
            elif name[0] == package:
                yield from (root.joinpath(*name[1:]) for root in roots)

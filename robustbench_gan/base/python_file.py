"""Running a user's Python file so that it may import what lies beside it, and nothing else in the process notices."""

from __future__ import annotations

import ast
import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from robustbench_gan.base.digests import CORE, INSTALLED

OWN = "rbg_user_"  # begins the names under which users' files stay loaded
KEPT = frozenset({*sys.stdlib_module_names, CORE, "numpy", "torch"})
"""What a file beside the user's own never stands for, whatever it is called: torch itself imports these."""


class UserFile:
    """A Python file that is no installed module, run at its creation.

    A plain `import layers` finds `layers.py` or the package `layers` in the file's own directory first, as it would
    in a script; `from .layers import Net` is relative to that directory. Two files in two directories each have their
    own. Raises whatever the file raises.
    """

    def __init__(self, path: Path) -> None:
        self.directory = path.resolve().parent
        self.imported: dict[str, ModuleType] = {}
        self.module = self._load(path)

    def _load(self, path: Path) -> ModuleType:
        packages = packages_above(path)
        unique = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:8]
        home = ModuleType(f"{OWN}{unique}")
        home.__path__ = [str(packages[0].parents[1] if packages else self.directory)]
        name = "".join(c if c.isalnum() else "_" for c in path.stem)
        package = ".".join([home.__name__, *(file.parent.name for file in packages)])
        # Under these names they stay: dataclasses, and what asks for the source of a class, look there.
        _take(lambda known: known.partition(".")[0] == home.__name__)
        sys.modules[home.__name__] = home
        spec = spec_from_file_location(f"{package}.{name}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path.name} is no Python file")
        module = module_from_spec(spec)
        try:
            with self.at_work():
                importlib.import_module(package)
                sys.modules[spec.name] = module
                spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(spec.name, None)
            raise
        return module

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The file's own directory is where imports look first; `sys.path` and `sys.modules` are as before after it.

        What is imported from there is this file's alone, and the same at its next turn.
        """
        path, written = list(sys.path), sys.dont_write_bytecode
        hidden = _take(self._stands_for)
        before = set(sys.modules)
        sys.modules.update(self.imported)
        sys.path.insert(0, str(self.directory))
        sys.dont_write_bytecode = True
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path[:], sys.dont_write_bytecode = path, written
            self.imported = _take(lambda name: name not in before and self._is_ours(name))
            sys.modules.update(hidden)

    def _stands_for(self, name: str) -> bool:
        """A loaded module whose name a file beside the user's has as well: it is out of the way meanwhile."""
        first = name.partition(".")[0]
        if first in KEPT or first.startswith(OWN) or self.directory.name in INSTALLED:
            return False
        return any((self.directory / file).is_file() for file in (f"{first}.py", f"{first}/__init__.py"))

    def _is_ours(self, name: str) -> bool:
        """A module of the file's directory, imported by its plain name; not one installed somewhere below it."""
        first, module = name.partition(".")[0], sys.modules[name]
        places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
        inside = any(place and Path(place).resolve().is_relative_to(self.directory) for place in places)
        return inside and (
            self._stands_for(name) or (first not in KEPT and (self.directory / first).is_dir())
        )


_WATCHING: list[set[Path]] = []  # sets that take the name of each file that is opened


@contextmanager
def files_opened() -> Iterator[set[Path]]:
    """The files that Python opens meanwhile, as absolute paths; compiled code that opens files itself is not seen."""
    if not _HOOKED:
        sys.addaudithook(_note)  # for ever: Python takes none back
        _HOOKED.append(True)
    found: set[Path] = set()
    _WATCHING.append(found)
    try:
        yield found
    finally:
        _WATCHING.remove(found)


_HOOKED: list[bool] = []


def _note(event: str, given: tuple[Any, ...]) -> None:
    if event == "open" and _WATCHING and isinstance(given[0], str | bytes):
        for found in _WATCHING:
            found.add(Path(os.fsdecode(given[0])).absolute())


def _take(which: Callable[[str], bool]) -> dict[str, ModuleType]:
    """Some modules, which are then loaded no more."""
    return {name: sys.modules.pop(name) for name in [name for name in sys.modules if which(name)]}


def packages_above(path: Path) -> list[Path]:
    """The `__init__.py` of every package that a file with relative imports lies in, outermost first.

    They are run before it, as Python does; a file without relative imports is a script, wherever it lies. Raises
    OSError and SyntaxError.
    """
    nodes = ast.walk(ast.parse(path.read_bytes()))
    if not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes):
        return []
    found: list[Path] = []
    directory = path.resolve().parent
    while (directory / "__init__.py").is_file() and directory.name.isidentifier():
        found.insert(0, directory / "__init__.py")
        directory = directory.parent
    return found

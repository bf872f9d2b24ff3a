"""Public names of a package, which import what they stand on when they are asked for and not before. No torch."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def offered(package: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package that imports its public names under `if TYPE_CHECKING:`, where they never run."""

    def asked(name: str) -> Any:
        if name not in _places(package):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        place = _places(package)[name]
        module = importlib.import_module(place)
        return getattr(module, name) if hasattr(module, name) else importlib.import_module(f"{place}.{name}")

    return asked


@functools.cache
def _places(package: str) -> Mapping[str, str]:
    """The module that each public name of a package is imported from."""
    import ast  # takes longer than all else here, and most commands ask for no public name

    source = Path(str(sys.modules[package].__file__)).read_bytes()
    checked = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    found = [node for block in checked for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in found for alias in node.names}

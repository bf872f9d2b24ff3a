"""robustbench-gan: how robust image classifiers and their generative defenses really are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if os.name != "posix":  # file locks, signals and the C library are those of POSIX
    raise ImportError("robustbench-gan runs on Linux and macOS; on Windows, run it under WSL.")

if TYPE_CHECKING:
    from robustbench_gan.api.attacked import Attacked
    from robustbench_gan.api.run_attack import run_attack
    from robustbench_gan.results.examples import read_examples

__version__ = "0.2.0"
__all__ = ["Attacked", "read_examples", "run_attack"]


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for."""
    if name in __all__:
        from robustbench_gan.api import run_attack
        from robustbench_gan.results import examples

        return getattr(examples if name == "read_examples" else run_attack, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

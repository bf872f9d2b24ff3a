"""robustbench-gan: how robust image classifiers and their generative defenses really are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from robustbench_gan.base import moved
from robustbench_gan.base.public import offered

if os.name != "posix":  # file locks, signals and the C library are those of POSIX
    raise ImportError("robustbench-gan runs on Linux and macOS; on Windows, run it under WSL.")

if TYPE_CHECKING:
    from robustbench_gan.api.attacked import Attacked
    from robustbench_gan.api.run_attack import run_attack
    from robustbench_gan.results.examples import read_examples

__version__ = "0.2.0"
__all__ = ["Attacked", "read_examples", "run_attack"]
__getattr__ = offered(__name__)
moved.register()

"""Which code derives red flags: a change there is none of the engine, and runs no cell again. No torch."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

from robustbench_gan.base.digests import files_digest

CHECKS: Final = (
    "catalogue", "counting", "derive", "gradients", "known", "question", "randomness", "strength", "systems",
    "thresholds",
)  # fmt: skip


@lru_cache
def checks_digest() -> str:
    """A hash of the code that derives flags from evidence."""
    return files_digest(Path(__file__).with_name(f"{name}.py") for name in CHECKS)

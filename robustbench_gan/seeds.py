"""Randomness for plugins: one integer a sample, and noise that is a pure function of it (`nouns/seeds.py`)."""

from __future__ import annotations

from robustbench_gan.nouns.seeds import (
    bits,
    fold,
    integers,
    isolated,
    normal,
    own_generators,
    sample_seeds,
    signs,
    stable_hash,
    uniform,
)

__all__ = [
    "bits",
    "fold",
    "integers",
    "isolated",
    "normal",
    "own_generators",
    "sample_seeds",
    "signs",
    "stable_hash",
    "uniform",
]

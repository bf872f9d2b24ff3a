"""Artifacts to store: their tensors, what is said of them, their recipe."""

from __future__ import annotations

from pathlib import Path

import torch

TENSORS = {
    "w": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 7,
    "steps": torch.tensor([2**62, -1]),
    "flags": torch.tensor([True, False]),
    "half": torch.tensor([0.5], dtype=torch.float16),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
}
INFO = {"accuracy": 0.1 + 0.2, "seconds": 1.5, "note": "é", "list": [1, None, True]}


def facts(artifact):
    """What `build` said; the seconds that the store adds left out."""
    return {k: v for k, v in artifact.info.items() if k != "build_seconds"}


class Builder:
    def __init__(self, tensors=TENSORS, info=INFO):
        self.tensors, self.info, self.calls = tensors, info, 0

    def __call__(self):
        self.calls += 1
        return self.tensors, self.info


def leftovers(root: Path) -> list[str]:
    return sorted(p.name for p in root.rglob("*") if p.is_file())


RECIPE = {"a": 1, "b": {"c": 0.1, "d": [1, 2]}, "e": "x", "f": True, "g": None}
CHANGED = [
    {**RECIPE, "a": 2},
    {**RECIPE, "a": "1"},
    {**RECIPE, "b": {"c": 0.1 + 1e-15, "d": [1, 2]}},
    {**RECIPE, "b": {"c": 0.1, "d": [2, 1]}},
    {**RECIPE, "b": {"c": 0.1, "d": [1, 2], "more": 0}},
    {**RECIPE, "e": "y"},
    {**RECIPE, "f": False},
    {**RECIPE, "f": 1},
    {**RECIPE, "g": "None"},
    {k: v for k, v in RECIPE.items() if k != "g"},
]

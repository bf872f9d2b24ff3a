"""Data sets: images as uint8 tensors in three splits, each checked against a known content on loading."""

from __future__ import annotations

from robustbench_gan.data.dataset import Dataset, Split

__all__ = ["Dataset", "Split"]

"""Classifiers: the reference ones, one file a family, and those that users bring, which all enter through `door`.

A factory maps (image shape, number of classes) to a module that takes (N, C, H, W) in [0, 1] and gives logits
(N, K). Normalisation, where a model wants it, is its first layer.
"""

from __future__ import annotations

from robustbench_gan.base.moved import out_of

__getattr__ = out_of(__name__)

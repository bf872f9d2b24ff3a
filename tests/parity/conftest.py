"""Trained networks to compare on, and which of the long comparisons are nightly."""

import pytest
from trained import colour_cnn, mnist_cnn, trained_store

__all__ = ["colour_cnn", "mnist_cnn", "trained_store"]

LONG = ("test_cw_l0", "test_fmn", "test_hopskipjump", "test_lbfgs")  # on the colour network: ten seconds each


def pytest_itemcollected(item: pytest.Item) -> None:
    if item.path.stem in LONG and item.path.parent.name == "parity" and "colour_cnn" in item.name:
        item.add_marker("nightly")

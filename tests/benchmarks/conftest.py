"""Trained networks to race on, and the rule that a race is run only when asked for: `pytest -m speed`."""

from pathlib import Path

import pytest
from trained import colour_cnn, mnist_a, mnist_cnn, trained_store

__all__ = ["colour_cnn", "mnist_a", "mnist_cnn", "trained_store"]


def pytest_itemcollected(item: pytest.Item) -> None:
    if Path(__file__).parent in item.path.parents:
        item.add_marker("speed")

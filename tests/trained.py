"""Fixtures of the trained networks of `real`, trained once a session for parity and benchmarks together."""

from __future__ import annotations

from pathlib import Path

import pytest
import real


@pytest.fixture(scope="session")
def trained_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "trained"


@pytest.fixture(scope="session")
def mnist_cnn(trained_store: Path) -> real.Trained:
    return real.mnist_cnn(trained_store)


@pytest.fixture(scope="session")
def mnist_a(trained_store: Path) -> real.Trained:
    """Classifier A of the Defense-GAN paper: trained for minutes."""
    return real.mnist_cnn(trained_store, named="a")


@pytest.fixture(scope="session")
def colour_cnn(trained_store: Path) -> real.Trained:
    return real.colour_cnn(trained_store)

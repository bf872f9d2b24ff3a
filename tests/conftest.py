"""Fixtures every test shares: nothing reads or writes the user's cache."""

from __future__ import annotations

import importlib
import signal
import sys
from pathlib import Path

import pytest

from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import Workshop

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts deaf to Ctrl-C
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and one under nohup to the end of its terminal


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(session_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RBG_CACHE_DIR", str(session_cache))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts")


@pytest.fixture
def shop(store: Store) -> Workshop:
    return Workshop(store)


@pytest.fixture
def plugin_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A directory on sys.path to plant distributions in; whatever was imported from it is forgotten."""
    root = tmp_path / "site"
    root.mkdir()
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    yield root
    for name in set(sys.modules) - before:
        if str(root) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views that are `fast` compute in bfloat16 whatever the processor, be it by emulation."""
    monkeypatch.setattr("robustbench_gan.contracts.view.multiplies_bfloat16", lambda device: True)

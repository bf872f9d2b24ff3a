"""The figures of docs/trained_attacks.md: `pytest -m figures tests/test_trained_figures.py` trains for minutes.

RBG_TEST_STORE names a directory to keep what is trained in between runs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rbg_figures import trained_attacks as tool

from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import Workshop

pytestmark = pytest.mark.figures


@pytest.mark.parametrize("attack", ["advgan", "ai-gan"])
def test_success_on_the_undefended_small_cnn(attack, tmp_path):
    shop = Workshop(Store(Path(os.environ.get("RBG_TEST_STORE") or tmp_path)))
    found = tool.success(shop, attack, "small-cnn", 1000, 0.3)
    targeted = [found[target].value for target in range(10)]
    assert found[None].value >= 0.95
    assert sum(targeted) / len(targeted) >= 0.90

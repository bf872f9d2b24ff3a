"""A workshop with planted trained attacks, and how often they were fitted."""

from __future__ import annotations

import planted_trained
import pytest
from planted_cells import grey
from planted_plugins import also_installed, workshop

N = 20
DATA = grey()
SCALE = {"attacks": "shove", "eps": 0.2}

trained_plugins = also_installed("trained", planted_trained.ENTRY_POINTS)


@pytest.fixture(name="shop")
def trained_shop(tmp_path):
    planted_trained.FITS.clear()
    return workshop(tmp_path)


def fits():
    return sum(planted_trained.FITS.values())


BLACK = "black-box:model=learner,rounds=2,substitute="

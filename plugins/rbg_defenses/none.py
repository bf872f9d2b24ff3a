"""No defense: the baseline every other is compared with."""

from __future__ import annotations

from robustbench_gan.contracts import Defense


class NoDefense(Defense):
    """The classifier as it is."""

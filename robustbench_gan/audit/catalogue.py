"""Every check, in the order of the verdict table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from robustbench_gan.audit import (
    batch,
    convergence,
    distortion,
    dynamic,
    eot,
    eps_grid,
    finite_differences,
    fixed_seed,
    half,
    label_leaking,
    own_flags,
    probabilities,
    quantisation,
    random_search,
    randomness,
    restarts,
    state,
    unbounded,
)
from robustbench_gan.base.errors import unknown

if TYPE_CHECKING:
    from robustbench_gan.audit.check import Check

CHECKS: Mapping[str, Check] = {
    check.name: check
    for check in (
        probabilities.CHECK, randomness.DROPOUT, randomness.RANDOMNESS, state.CHECK, batch.CHECK, dynamic.CHECK,
        finite_differences.CHECK, own_flags.CHECK, convergence.CHECK, restarts.CHECK, eot.CHECK, fixed_seed.CHECK,
        random_search.CHECK, eps_grid.CHECK, half.CHECK, unbounded.CHECK, distortion.CHECK, quantisation.CHECK,
        label_leaking.CHECK,
    )
}  # fmt: skip


def chosen(names: Sequence[str]) -> list[Check]:
    """The checks of these names, all without any. Raises UsageError with the nearest for an unknown one."""
    for name in names:
        if name not in CHECKS:
            raise unknown("check", name, CHECKS)
    return [check for check in CHECKS.values() if not names or check.name in names]

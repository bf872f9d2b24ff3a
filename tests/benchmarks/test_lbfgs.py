"""Races of L-BFGS against scipy's L-BFGS-B, which takes one image at a time."""

from __future__ import annotations

import pytest
from harness import compare, ours, quality_of
from scipy_lbfgs import HISTORY, INITIAL_CONST, SEARCH_STEPS, STEPS, TOLERANCE, scipy_lbfgs

from robustbench_gan.nouns.outcome import Goal

SPEC = (
    f"lbfgs:steps={STEPS},search_steps={SEARCH_STEPS},initial_const={INITIAL_CONST},"
    f"history={HISTORY},tolerance={TOLERANCE}"
)


@pytest.mark.parametrize("kind", ["untargeted", "targeted"])
@pytest.mark.parametrize("network", ["mnist_cnn", "colour_cnn"])
def test_lbfgs(benchmark, network, kind, request):
    trained = request.getfixturevalue(network)
    model, (x, y) = trained.model, trained.take(100)
    classes = (y + 1) % 10 if kind == "targeted" else y
    options = {"targets": classes} if kind == "targeted" else {}
    compare(
        benchmark, f"L-BFGS l2 {kind}, {SEARCH_STEPS} constants, tolerance {TOLERANCE:g}", setting=network,
        ours=ours(SPEC, model, x, y, "l2", **options),
        others={"scipy": lambda: scipy_lbfgs(model, x, Goal(kind, classes))},
        quality=quality_of(model, x, classes, "l2", targeted=kind == "targeted"),
        faster={"scipy": 10.0},
        rounds=1,
    )  # fmt: skip

"""Carlini and Wagner in linf: at least twice as fast as adv_lib's, and no further from the image."""

from __future__ import annotations

import pytest
from harness import compare, quality_of
from planted import seeds
from rbg_attacks._cw_linf import cw_linf
from second import adv_lib_attacks

from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.outcome import Goal

N = 10
THEIR_STEPS = 100  # a try; with their default of 1000 they take ten times as long


@pytest.mark.parametrize("network", ["mnist_cnn", "colour_cnn"])
def test_cw_linf(benchmark, network, request):
    model = request.getfixturevalue(network).model
    x, y = request.getfixturevalue(network).take(N)
    theirs = adv_lib_attacks().carlini_wagner_linf

    def ours():
        view = View.on(Bare(model), seeds(N), whole_batches=True, exact=True)
        return cw_linf(view, x, Goal.untargeted(y))

    compare(
        benchmark, "C&W linf", setting=f"{network}, adv_lib {THEIR_STEPS} steps a try", ours=ours,
        others={"adv_lib": lambda: theirs(model, x, y, max_iterations=THEIR_STEPS)},
        quality=quality_of(model, x, y, "linf"), faster={"adv_lib": 2.0},
        rounds=2, points=0.0, norm_within=1.0,
    )  # fmt: skip

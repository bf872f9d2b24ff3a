"""Carlini and Wagner in l0: at least five times as fast as ART's, and no more values changed."""

from __future__ import annotations

import pytest
import torch
from harness import compare, quality_of
from planted import seeds
from rbg_attacks._cw_l0 import cw_l0
from second import art_classifier, art_evasion, art_generate

from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.outcome import Goal

N = 20


@pytest.mark.parametrize("network", ["mnist_cnn", "colour_cnn"])
def test_cw_l0(benchmark, network, request):
    model = request.getfixturevalue(network).model
    x, y = request.getfixturevalue(network).take(N)
    attack = art_evasion().CarliniL0Method(
        art_classifier(model, x.shape[1:], 10), batch_size=N, verbose=False
    )

    def ours():
        view = View.on(Bare(model), seeds(N), whole_batches=True, exact=True)
        return cw_l0(view, x, Goal.untargeted(y))

    def theirs():
        made = art_generate(attack, x, y).clamp(0, 1)
        return torch.where((made - x).abs() > 1e-6, made, x)  # the rounding of tanh, by ART's own measure

    compare(
        benchmark, "C&W l0", setting=f"{network}, ART's defaults (10 tries of 10 steps)", ours=ours,
        others={"art": theirs}, quality=quality_of(model, x, y, "l0"), faster={"art": 5.0},
        rounds=1, points=0.0, norm_within=1.0,
    )  # fmt: skip

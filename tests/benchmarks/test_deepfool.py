"""DeepFool's speed beside foolbox's and adv_lib's, at the same steps, overshoot and number of candidates."""

from __future__ import annotations

import math

import pytest
from harness import compare, ours, quality_of
from second import adv_lib_attacks, foolbox_attacks, foolbox_criterion, foolbox_model

N, STEPS = 300, 50


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("network", ["mnist_cnn", "colour_cnn"])
def test_deepfool(benchmark, request, network, norm):
    trained = request.getfixturevalue(network)
    model, (x, y) = trained.model, trained.take(N)
    kind = foolbox_attacks().L2DeepFoolAttack if norm == "l2" else foolbox_attacks().LinfDeepFoolAttack
    theirs, adv_lib, order = kind(steps=STEPS), adv_lib_attacks(), 2 if norm == "l2" else math.inf
    compare(
        benchmark, f"DeepFool {norm}, {STEPS} steps", setting=network,
        ours=ours(f"deepfool:steps={STEPS}", model, x, y, norm),
        others={
            "foolbox": lambda: theirs.run(foolbox_model(model), x, foolbox_criterion(y)),
            "adv_lib": lambda: adv_lib.df(model, x, y, steps=STEPS, norm=order),
        },
        quality=quality_of(model, x, y, norm), points=0.0, norm_within=1.005,
        faster={"foolbox": 4.0, "adv_lib": 1.2},
    )  # fmt: skip

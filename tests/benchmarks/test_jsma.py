"""Races of JSMA against ART's, batched, and torchattacks', which takes one image at a time."""

from __future__ import annotations

import pytest
from harness import compare, ours, quality_of
from second import art_classifier, art_evasion, art_generate, torchattacks_module


def art(model, x, target):
    attack = art_evasion().SaliencyMapMethod(
        art_classifier(model, x.shape[1:], 10), theta=1.0, gamma=1.0, batch_size=len(x), verbose=False
    )
    return lambda: art_generate(attack, x, target)


def torchattacks(model, x, target):
    attack = torchattacks_module().JSMA(model, theta=1.0, gamma=1.0)
    attack.set_mode_targeted_by_label(quiet=True)
    return lambda: attack(x, target)


@pytest.mark.parametrize("space", ["probs", "logits"])
@pytest.mark.parametrize("network", ["mnist_cnn", "colour_cnn"])
def test_jsma(benchmark, network, space, request):
    # logits is torchattacks' map; ART's, of the target's logit alone, is neither, and stands beside probs.
    trained = request.getfixturevalue(network)
    model, (x, y) = (
        trained.model,
        trained.take({"mnist_cnn": 50, "colour_cnn": 50 if space == "probs" else 3}[network]),
    )
    target = (y + 1) % 10
    others = (
        {"art": art(model, x, target)}
        if space == "probs"
        else {"torchattacks": torchattacks(model, x, target)}
    )
    compare(
        benchmark, f"JSMA {space}, targeted", setting=network,
        ours=ours(f"jsma:theta=1.0,gamma=1.0,space={space}", model, x, y, "l0", targets=target),
        others=others,
        quality=quality_of(model, x, target, "l0", targeted=True),
        faster=dict.fromkeys(others, 5.0),
        rounds=3 if space == "probs" else 1,
    )  # fmt: skip

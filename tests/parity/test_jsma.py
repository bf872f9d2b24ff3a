"""JSMA against ART's (batched; it maps the target's logit alone) and torchattacks' (one image at a time; logits)."""

from __future__ import annotations

import math

import pytest
import torch
from harness import Lap, hold_quality, quality_of
from planted import conv, images
from second import art_classifier, art_evasion, art_generate, torchattacks_module

from robustbench_gan.api.run_attack import run_attack

pytestmark = pytest.mark.parity


def ours(model, x, y, target, space="probs", gamma=1.0):
    attack = f"jsma:theta=1.0,gamma={gamma},space={space}"
    return run_attack(attack, model, x, y, norm="l0", epsilons=[math.inf], targets=target).examples[0]


def art(model, x, target, gamma=1.0):
    classifier = art_classifier(model, x.shape[1:], int(model(x[:1]).shape[1]))
    attack = art_evasion().SaliencyMapMethod(
        classifier, theta=1.0, gamma=gamma, batch_size=len(x), verbose=False
    )
    return art_generate(attack, x, target)


def torchattacks(model, x, y, target, gamma=1.0):
    attack = torchattacks_module().JSMA(model, theta=1.0, gamma=gamma)
    attack.set_mode_targeted_by_label(quiet=True)
    return attack(x, target)


def hold(quality, made, other):
    """Ours is as strong: success within two points, median l0 no larger than 1.03 of theirs."""
    laps = [Lap(who, 0, 0, 0, *quality(m)) for who, m in (("ours", made), ("theirs", other))]
    assert laps[1].success > 0.5
    hold_quality(laps)


@pytest.mark.parametrize("gamma", [1.0, 0.1])
@pytest.mark.parametrize("network", ["mnist_cnn", "colour_cnn"])
def test_as_strong_as_art_s(network, gamma, request):
    trained = request.getfixturevalue(network)
    x, y = trained.take(30)
    target = (y + 1) % 10
    quality = quality_of(trained.model, x, target, "l0", targeted=True)
    hold(quality, ours(trained.model, x, y, target, gamma=gamma), art(trained.model, x, target, gamma))


@pytest.mark.slow
@pytest.mark.parametrize(("network", "count"), [("mnist_cnn", 20), ("colour_cnn", 3)])
def test_as_strong_as_torchattacks(network, count, request):
    trained = request.getfixturevalue(network)
    x, y = trained.take(count)
    target = (y + 1) % 10
    quality = quality_of(trained.model, x, target, "l0", targeted=True)
    hold(quality, ours(trained.model, x, y, target), torchattacks(trained.model, x, y, target))


def test_in_logits_the_examples_are_torchattacks_own():
    # No pixel is above 0.99, which they leave out of the domain and we do not.
    x, model = images(10, (1, 6, 6)) * 0.5, conv(3, (1, 6, 6))
    with torch.no_grad():
        model[-1].bias.sub_(model(x).mean(dim=0))
    top = model(x).topk(2, dim=1).indices
    made = ours(model, x, top[:, 0], top[:, 1], space="logits")
    other = torchattacks(model, x, top[:, 0], top[:, 1])
    assert (model(made).argmax(dim=1) == top[:, 1]).all()
    assert torch.equal(made, other)

"""`run_attack` on a defense, in bfloat16, and by every gradient that there is."""

from __future__ import annotations

import pytest
import torch
from called_models import N, labels, planted_for_calls, steep, two_classes  # noqa: F401 - fixtures
from planted import Detector, Linear, Noise, Scale, flatter, images

from robustbench_gan import run_attack
from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.composition import Composed
from robustbench_gan.nouns.outcome import Goal, Output

pytestmark = pytest.mark.filterwarnings("ignore::robustbench_gan.api.run_attack.RedFlag")


# ---- a defense in the model's place


def test_a_defense_is_attacked_through_its_purifier():
    model, x = Linear().eval(), images(N)
    defense = Scale(model, factor=0.5).eval()
    y = labels(model, x * 0.5)
    found = run_attack("pgd:steps=10", defense, x, y, epsilons=[0.3])
    assert found.right.all() and found.success.any()
    assert torch.equal(found.success[0], labels(model, found.examples[0] * 0.5) != y)


def test_the_gradient_of_a_defense_can_be_chosen():
    model, x = Linear().eval(), images(N)
    defense = Scale(model, factor=0.5, stand_in=-1.0).eval()  # its surrogate leads the wrong way
    y = labels(model, x * 0.5)
    full = run_attack("fgsm", defense, x, y, epsilons=[0.2])
    bpda = run_attack("fgsm", defense, x, y, epsilons=[0.2], gradient="bpda")
    assert not torch.equal(full.examples, bpda.examples)


def test_a_rejected_example_is_no_success_and_a_rejected_image_not_robust():
    model, x = Linear().eval(), images(N) * 0.6
    rejects = Detector(model, threshold=0.0).eval()  # everything
    found = run_attack("pgd:steps=5", rejects, x, labels(model, x), epsilons=[0.3])
    assert not found.success.any() and not found.right.any() and found.robust_accuracy[0].value == 0


def test_a_random_defense_is_judged_on_seeds_the_attack_did_not_see():
    model, x = Linear().eval(), images(N)
    defense = Noise(model, sigma=0.3).eval()
    runs = [run_attack("pgd:steps=5", defense, x, labels(model, x), epsilons=[0.1]) for _ in range(2)]
    assert torch.equal(runs[0].success, runs[1].success)
    assert (runs[0].forward == 6).all()  # an answer is no proof: nobody stops early


# ---- fast


@pytest.mark.usefixtures("bfloat16")
def test_fast_is_judged_in_float32(planted):
    model, x, y = two_classes()
    with torch.no_grad():
        logits = model(x)
        gap = (logits.amax(dim=1) - logits.amin(dim=1)) / (model.weight[0] - model.weight[1]).abs().sum()
    eps = float(gap.median())  # many samples end within bfloat16's error of the boundary
    found = run_attack("believes", model, x, y, epsilons=[eps], fast=True)
    fast, logits, at = planted.SEEN[0]
    with torch.no_grad():
        exact = model(at)
    assert fast and not torch.allclose(logits, exact, atol=1e-5, rtol=0)  # what it saw was bfloat16's
    assert torch.equal(found.success[0], exact.argmax(dim=1) != y)
    run_attack("believes", model, x, y, epsilons=[eps])
    slow, logits, at = planted.SEEN[1]
    with torch.no_grad():
        assert not slow and torch.allclose(logits, model(at), atol=1e-5)


def test_fast_finds_what_float32_finds():
    model, x = steep(), images(N)
    y = labels(model, x)
    slow, fast = (
        run_attack("pgd:steps=20", model, x, y, epsilons=[0.02], fast=f).success.double().mean()
        for f in (False, True)
    )
    assert 0 < slow < 1 and abs(slow - fast) <= 0.05


# ---- radii, norms and gradients in the words of users


def test_auto_tries_every_gradient_and_keeps_the_stronger_example_of_each_sample():
    """The surrogate leads the wrong way for some images and the full gradient is cut for the others."""

    class Halved(Scale):
        def purify(self, x, seed):
            bright = x.mean(dim=(1, 2, 3), keepdim=True) > 0.5
            return torch.where(bright, x.detach(), x) * self.factor

        def surrogate(self, x, seed):
            bright = x.detach().mean(dim=(1, 2, 3), keepdim=True) > 0.5
            return torch.where(bright, x, -x) * self.stand_in

    model, x = flatter().eval(), images(N)
    defense = Halved(model, factor=0.9).eval()
    y = labels(model, x * 0.9)
    full, bpda, auto = (
        run_attack("pgd:steps=20", defense, x, y, epsilons=0.2, gradient=g) for g in ("full", "bpda", "auto")
    )
    assert torch.equal(auto.success, full.success | bpda.success)
    assert auto.success.sum() > max(int(full.success.sum()), int(bpda.success.sum())) > 0
    assert (auto.forward > full.forward).any()  # what both took, and the choice
    won, margins = full.success[0], []
    assert torch.equal(auto.examples[0][won], full.examples[0][won])  # won is won: it is not tried again
    for found in (full, bpda, auto):
        with torch.no_grad():
            margins.append(Goal.untargeted(y).margin(Output.of(model(found.examples[0] * 0.9))))
    assert torch.equal(margins[2][~won], torch.maximum(margins[0], margins[1])[~won])


def test_what_is_no_gradient_of_this_model_is_refused():
    model, x, y = two_classes()
    for gradient in ("full", "auto", "cut", "bpda"):
        with pytest.raises(UsageError, match="bare Linear: leave it out"):
            run_attack("fgsm", model, x, y, epsilons=0.1, gradient=gradient)
    for given in (model, Scale(model).eval()):
        with pytest.raises(UsageError, match=r"'foo'.*auto, bpda, full, truncated"):
            run_attack("fgsm", given, x, y, epsilons=0.1, gradient="foo")


def test_a_defense_that_was_not_fitted_is_refused_by_name():
    class Learns(Scale):
        def fit(self, data, seed, store):
            self.factor = 1.0

    model, x, y = two_classes()
    for given in (Learns(model), Composed([Scale(model), Learns(model)])):
        with pytest.raises(UsageError, match=r"^Learns is not fitted"):
            run_attack("fgsm", given.eval(), x, y, epsilons=0.1)
        given.fit(None, 0, None)
        assert run_attack("fgsm", given.eval(), x, y, epsilons=0.1).right.any()

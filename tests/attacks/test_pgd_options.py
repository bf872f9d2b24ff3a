"""PGD, BIM and BPDA with other losses and with momentum; fast gradients that claim too much."""

from __future__ import annotations

import pytest
import torch
from planted import Linear, conv, images, seeds
from rbg_attacks.apgd import apgd
from rbg_attacks.bim import bim
from rbg_attacks.bpda import bpda
from rbg_attacks.pgd import pgd
from torch import nn
from torch.nn import functional as F

from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

N = 8
BUDGET = Budget("linf", 0.1)


def view_of(model, n=N, **options):
    return View.on(Bare(model), seeds(n), **options)


class Steep(nn.Module):
    """A linear classifier whose cross-entropy has no gradient left in float32: logits of thousands."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Linear(seed=5, classes=4)

    def forward(self, x):
        return self.inner(x) * 1e4


class Boastful(nn.Module):
    """In bfloat16 it calls everything class 3."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Linear(seed=5, classes=4)

    def forward(self, x):
        logits = self.inner(x)
        boast = torch.tensor([0.0, 0, 0, 1000]) if torch.is_autocast_enabled("cpu") else 0
        return logits + boast


def won(model, made, goal):
    return goal.reached(Output.of(model(made))).detach()


def test_momentum_is_mi_fgsm_s_loop():
    x, model = images(N), conv()
    y = model(x).argmax(dim=1)
    at, velocity = x.clone(), torch.zeros_like(x)
    for _ in range(5):
        leaf = at.clone().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
        velocity = 0.9 * velocity + grad / grad.abs().sum(dim=(1, 2, 3), keepdim=True)
        at = (x + (at + 0.02 * velocity.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
    goal = Goal.untargeted(y)
    made = bim(view_of(model), x, goal, BUDGET, seeds(N), steps=5, step=0.02, momentum=0.9)
    margins = [goal.margin(Output.of(model(z))) for z in (made, at)]
    assert (margins[0] >= margins[1]).all()  # the best iterate
    assert ((made - at).abs().amax(dim=(1, 2, 3)) < 1e-5).sum() >= N - 2


@pytest.mark.parametrize("attack", [pgd, bim, bpda])
def test_the_options_change_the_way_and_their_defaults_do_not(attack):
    x, model = images(N), conv()
    goal = Goal.untargeted(model(x).argmax(dim=1))

    def made(**options):
        return attack(view_of(model), x, goal, Budget("l2", 0.5), seeds(N), steps=4, **options)

    assert torch.equal(made(), made(loss="ce", momentum=0.0))
    for options in ({"loss": "margin"}, {"loss": "dlr"}, {"momentum": 1.0}):
        assert not torch.equal(made(), made(**options))


@pytest.mark.parametrize("loss", ["margin", "dlr"])
@pytest.mark.parametrize("targeted", [False, True])
def test_logits_too_large_for_cross_entropy_hide_nothing_from_the_other_losses(loss, targeted):
    x, model = images(40) * 0.2 + 0.4, Steep()
    order = model(x).argsort(dim=1, descending=True)
    goal = Goal.targeted(order[:, 1]) if targeted else Goal.untargeted(order[:, 0])

    def share(name):
        made = bim(view_of(model, 40), x, goal, BUDGET, seeds(40), steps=10, loss=name)
        return won(model, made, goal).double().mean()

    assert share(loss) > 0.2
    if not targeted:
        assert share("ce") < share(loss) / 2  # nearly blind: the control


@pytest.mark.parametrize(("attack", "options"), [(pgd, {"restarts": 2}), (apgd, {}), (apgd, {"loss": "dlr"})])
def test_a_win_claimed_in_bfloat16_ends_nothing(attack, options):
    x, model = images(20) * 0.2 + 0.4, Boastful()
    goal = Goal.untargeted(model(x).argmax(dim=1) % 3)
    seen = [won(model, x, goal)]
    for fast in (False, True):
        view = view_of(model, 20, exact=True, fast=fast)
        made = attack(view, x, goal, Budget("linf", 0.2), seeds(20), steps=10, **options)
        seen.append(won(model, made, goal))
    clean, slow, fast_too = seen
    assert slow.sum() > clean.sum()
    assert torch.equal(slow, fast_too)


@pytest.mark.parametrize("bad", [-0.5, float("nan"), float("inf")])
def test_a_momentum_that_means_nothing_is_refused(bad):
    with pytest.raises(UsageError, match="momentum"):
        pgd(
            view_of(conv()), images(N), Goal.untargeted(torch.zeros(N).long()), BUDGET, seeds(N), momentum=bad
        )

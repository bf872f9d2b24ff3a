"""FGSM and PGD against foolbox 3.3 on the same model: the same examples, sample by sample."""

from __future__ import annotations

import warnings

import pytest
import torch
from planted import images, seeds
from rbg_attacks.bim import bim
from rbg_attacks.fgsm import fgsm
from rbg_attacks.pgd import climb
from torch import nn

from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output

pytestmark = pytest.mark.parity
N, SHAPE, CLASSES = 100, (1, 12, 12), 5


def model():
    """A convolutional network with fixed weights, steep enough that small steps change its answer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(144, CLASSES),
        )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def setting():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import foolbox

    net, x = model(), images(N, SHAPE)
    y = net(x).argmax(dim=1)
    assert len(y.unique()) > 1
    return foolbox, foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu"), net, x, y


def view():
    return View.on(Bare(model()), seeds(N), whole_batches=True)


def success(net, made, goal):
    return goal.reached(Output.of(net(made)))


def theirs(attack, fmodel, x, criterion, eps):
    raw, _, found = attack(fmodel, x, criterion, epsilons=eps)
    return raw, found


@pytest.mark.parametrize("eps", [0.01, 0.05, 0.3])
def test_fgsm_is_foolbox_s(setting, eps):
    foolbox, fmodel, net, x, y = setting
    made = fgsm(view(), x, Goal.untargeted(y), Budget("linf", eps), seeds(N))
    other, found = theirs(foolbox.attacks.FGSM(), fmodel, x, foolbox.Misclassification(y), eps)
    assert torch.allclose(made, other, atol=1e-6)
    assert torch.equal(success(net, made, Goal.untargeted(y)), found)


@pytest.mark.parametrize("eps", [0.2, 1.0])
def test_the_fast_gradient_in_l2_is_foolbox_s(setting, eps):
    foolbox, fmodel, _, x, y = setting
    made = fgsm(view(), x, Goal.untargeted(y), Budget("l2", eps), seeds(N))
    other, _ = theirs(foolbox.attacks.FGM(), fmodel, x, foolbox.Misclassification(y), eps)
    assert torch.allclose(made, other, atol=1e-5)


PGD = [("linf", 0.03, 10), ("linf", 0.1, 20), ("l2", 0.3, 10), ("l2", 0.8, 20)]


def pgd_pair(setting, norm, eps, steps, targeted=False):
    """Foolbox's examples and successes; the goal and the step that make our loop the same."""
    foolbox, fmodel, _, x, y = setting
    kind = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD
    size = 2.5 * eps / steps
    attack = kind(abs_stepsize=size, rel_stepsize=None, steps=steps, random_start=False)
    goal = Goal.targeted((y + 1) % CLASSES) if targeted else Goal.untargeted(y)
    criterion = (foolbox.criteria.TargetedMisclassification if targeted else foolbox.Misclassification)(
        goal.classes
    )
    return theirs(attack, fmodel, x, criterion, eps), goal, size


@pytest.mark.parametrize(("norm", "eps", "steps"), PGD)
@pytest.mark.parametrize("targeted", [False, True])
def test_pgd_without_a_random_start_wins_where_foolbox_s_wins(setting, norm, eps, steps, targeted):
    (other, found), goal, size = pgd_pair(setting, norm, eps, steps, targeted)
    net, x = setting[2], setting[3]
    made = bim(view(), x, goal, Budget(norm, eps), seeds(N), steps=steps, step=size)
    ours = success(net, made, goal)
    assert (ours | ~found).all()  # the best iterate is never worse than the last
    assert found.sum() > 0 and (ours.double().mean() - found.double().mean()).abs() <= 0.02
    final = Budget(norm, eps).size(other - x)
    assert (final <= eps * (1 + 1e-5)).all()


@pytest.mark.parametrize(("norm", "eps", "steps"), PGD)
def test_the_last_iterate_of_the_loop_is_foolbox_s(setting, norm, eps, steps):
    # `climb` keeps the iterate of largest margin: a goal whose margin only grows makes that the last one.
    (other, _), goal, size = pgd_pair(setting, norm, eps, steps)
    x = setting[3]

    class Latest(Goal):
        calls = 0

        def rows(self, index):
            return self

        def margin(self, out):
            Latest.calls += 1
            return torch.full((len(out.logits),), float(Latest.calls))

    latest = Latest("untargeted", goal.classes)
    made, _ = climb(view(), x, torch.zeros_like(x), latest, Budget(norm, eps), steps=steps, size=size)
    apart = (made - other).abs().amax(dim=(1, 2, 3))
    assert (apart < 1e-5).double().mean() >= 0.98  # a gradient at a kink of ReLU may round to either side

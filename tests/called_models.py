"""Small models, their labels and planted attacks for the tests of `run_attack`."""

from __future__ import annotations

import pytest
import torch
from planted import Linear, conv, images, plant
from torch import Tensor, nn

N = 40

PLANTED = """
import torch
from robustbench_gan.contracts.attacks import attack

CALLS, SEEN = [], []

@attack(norms=("l2",), needs="gradient", minimal=True, targeted=False, paper="planted")
def closest(view, x, goal, budget, seed, *, beyond: float = 1.01):
    "Steps just over the boundary of two linear classes: the closed form."
    CALLS.append(budget.eps)
    margin, grad, out = view.value_and_grad(goal.margin, x)
    return x - beyond * (margin / grad.flatten(1).square().sum(1)).reshape(-1, 1, 1, 1) * grad

@attack(norms=("linf",), needs="gradient", paper="planted")
def believes(view, x, goal, budget, seed):
    "One signed step, and what the view answers there with a gradient."
    _, grad, out = view.value_and_grad(goal.loss, x)
    at = (x + budget.eps * budget.steepest(grad)).clamp(0, 1)
    _, _, out = view.value_and_grad(goal.loss, at)
    SEEN.append((view.fast, out.logits, at))
    return at

@attack(norms=("linf",), needs="nothing", paper="planted")
def leaps(view, x, goal, budget, seed):
    "Leaves the ball."
    return (x + 2 * budget.eps).clamp(0, 1)

@attack(norms=("linf",), needs="gradient", paper="planted")
def stands(view, x, goal, budget, seed):
    "Returns the image."
    view.output(x)
    return x.clone()

@attack(norms=("linf",), needs="gradient", paper="planted")
def shy(view, x, goal, budget, seed):
    "Moves, and never asks for a gradient."
    view.output(x)
    return (x + budget.eps).clamp(0, 1)

@attack(norms=("linf",), needs="nothing", paper="planted")
def edits(view, x, goal, budget, seed):
    "Moves the image it was given."
    x += 0.01
    return x
"""


@pytest.fixture(name="planted")
def planted_for_calls(plugin_path):
    lines = [
        f"{name} = planted_direct:{name}"
        for name in ("closest", "believes", "leaps", "edits", "stands", "shy")
    ]
    points = "\n".join(["[robustbench_gan.attacks]", *lines])
    plant(plugin_path, "planted-direct", points, {"planted_direct.py": PLANTED})
    import planted_direct

    return planted_direct


@pytest.fixture(name="setting", params=["linear", "conv"])
def setting_of_calls(request) -> tuple[nn.Module, Tensor, Tensor]:
    model = Linear().eval() if request.param == "linear" else steep()
    x = images(N)
    return model, x, labels(model, x)


def steep() -> nn.Module:
    """A small convolutional network whose answer is not the same for every image."""
    model, x = conv(), images(N)
    with torch.no_grad():
        model[-1].weight *= 4
        model[-1].bias -= model(x).mean(dim=0)
    return model


def labels(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


def two_classes() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model of two classes and images far enough from the edges that the box never binds."""
    model, x = Linear(2).eval(), images(N) * 0.2 + 0.4
    with torch.no_grad():
        model.bias -= model(x).mean(dim=0)
        model.weight *= 0.1
        model.bias *= 0.1
    return model, x, labels(model, x)


def flags_of(found):
    return {flag.id: flag.severity for flag in found.flags}


def saturated(x):
    model = steep()
    return nn.Sequential(model, Times(1e6), nn.Softmax(dim=1)).eval(), x, labels(model, x)


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor

"""A detector is attacked, not only measured: iterative attacks go for examples that are accepted and misclassified.

The shortest way across the boundary leads through pixels that a detector watches; there is another way, through
pixels that it does not watch. An attack that ignores scores is rejected on every sample.
"""

from __future__ import annotations

import pytest
import torch
from planted import images, seeds
from torch import Tensor, nn

from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Bare, Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal, Output
from robustbench_gan.nouns.spec import Spec, as_params

N, EPS = 16, {"linf": 0.3, "l2": 1.2, "l1": 4.0, "l0": 8.0}
WATCHED = torch.arange(16).reshape(1, 4, 4) < 8
# jsma moves a value once and to the end of its range: it cannot take back what made a detector fire.
# manifold moves in a generator's range, and these systems have no generator.
ELSEWHERE = {"jsma", "manifold"}
STEPS = {"bim": 200, "pgd": 200, "bpda": 200, "cw": 100}  # small steps: large ones leap over what is allowed


class TwoWays(nn.Module):
    """Two classes; the watched pixels weigh more than the others."""

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.where(WATCHED, 1.0, 0.7).flatten()
        gap = (x - 0.5).flatten(1) @ weight - 0.8
        return torch.stack([-gap, gap], dim=1) / 2


class Watch(Defense):
    """Rejects an image in which the mean of the watched pixels is not 1/2, give or take 0.05."""

    def scores(self, x: Tensor, purified: Tensor, seed: Tensor) -> Tensor:
        mean = x[:, WATCHED].mean(dim=1, keepdim=True)
        return (mean - 0.5).abs() / 0.05 - 1


def quiet(x: Tensor) -> Tensor:
    """Images near middle grey that the detector accepts with room: class 0, rejected by nobody."""
    x = (x - 0.5) * 0.2
    for half in (WATCHED, ~WATCHED):
        x = x - torch.where(half, x[:, half].mean(dim=1)[:, None, None, None], 0.0)
    return x + 0.5


def cases():
    for name in registry.names("attacks"):
        target = registry.load("attacks", name)
        info, iterates = info_of(target), "steps" in registry.parameters(target)
        if info.needs == "gradient" and iterates and not info.trained and name not in ELSEWHERE:
            # the steepest step in l1 moves the one value of largest gradient: here always a watched one
            norms = [norm for norm in info.norms if norm != "l1" or name == "fmn"]
            yield from (pytest.param(name, norm, id=f"{name}-{norm}") for norm in norms)


def attacked(name: str, norm: str, system, goal: Goal, x: Tensor) -> Output:
    given = {"steps": STEPS[name]} if name in STEPS else {}
    function, parameters = registry.resolve("attacks", Spec(name, as_params(given)))
    eps = float("inf") if info_of(function).minimal else EPS[norm]
    view = View.on(system, seeds(N), exact=True, whole_batches=True)
    made = function(view, x, goal, Budget(norm, eps), seeds(N, cell=1), **parameters)
    judge = Defended(Watch(TwoWays()))
    with torch.no_grad():
        return judge(made, seeds(N))


@pytest.mark.parametrize(("name", "norm"), list(cases()))
def test_the_unwatched_way_is_found(name, norm):
    x = quiet(images(N))
    goal = Goal.untargeted(torch.zeros(N, dtype=torch.int64))
    aware = attacked(name, norm, Defended(Watch(TwoWays())), goal, x)
    assert goal.reached(aware).float().mean() >= 0.9


def test_who_ignores_the_detector_is_rejected():
    x = quiet(images(N))
    goal = Goal.untargeted(torch.zeros(N, dtype=torch.int64))
    blind = attacked("deepfool", "l2", Bare(TwoWays()), goal, x)
    assert not blind.accepted.any()
    assert not goal.reached(blind).any()

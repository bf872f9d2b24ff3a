"""Any registered attack on any small system in one call, the trained ones after a few steps of training."""

from __future__ import annotations

from typing import Any

import torch
from planted import conv, images, seeds
from torch import Tensor, nn

from robustbench_gan.cell.craft import check_examples
from robustbench_gan.contracts.attacks import AttackInfo, Fitted, Training, info_of
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Bare, Defended, System
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.training.networks import fresh
from robustbench_gan.training.substitute import Queried

CHEAP = {"steps": 4, "restarts": 2, "iterations": 4, "queries": 60}


def attack_of(text: str, cheap: dict[str, Any] = CHEAP) -> tuple[Any, AttackInfo, dict[str, Any]]:
    """The registered function, its facts and its parameters: those of the text, then those of `cheap` that it has."""
    spec = Spec.parse(text)
    function, parameters = registry.resolve("attacks", spec)
    given = dict(spec.params)
    knobs = {name: value for name, value in cheap.items() if name in parameters and name not in given}
    return function, info_of(function), {**parameters, **knobs}


def fitted(
    kind: Any,
    parameters: dict[str, Any],
    system: System,
    goal: Goal,
    budget: Budget,
    shape: tuple[int, int, int],
) -> Fitted:
    """An attack that must be trained, after a few steps on planted images, as the function the engine makes of it."""
    x = images(24, shape, seed=6)
    with torch.no_grad():
        classes = system(x[:1], seeds(1)).logits.shape[1]
    training = Training(
        Queried(x, torch.arange(24) % 3), lambda seed: View.on(system, seed, whole_batches=True)
    )
    generators = {}
    single = kind.conditional or goal.kind == "untargeted"
    for target in [None] if single else goal.classes.unique().tolist():
        generators[target] = fresh(lambda: kind(shape, classes, **parameters), 0)
        generators[target].fit(training, target, budget, 0)
    return Fitted(generators)


def parts_of(x: Tensor, classifier: nn.Module) -> dict[str, nn.Module]:
    """What a white-box attacker has of a defense with a generator: every image of the form of x, and a classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        generator = nn.Sequential(nn.Linear(5, x[0].numel()), nn.Sigmoid(), nn.Unflatten(1, x.shape[1:]))
    return {"generator": generator, "classifier": classifier}


def crafted(
    text: str,
    budget: Budget,
    x: Tensor,
    goal: Goal,
    *,
    model: System | None = None,
    seed: Tensor | None = None,
    view_seed: Tensor | None = None,
    fit_steps: int = 2,
    cheap: dict[str, Any] = CHEAP,
    **options: Any,
) -> tuple[Tensor, View]:
    """The attack's examples, checked as the engine checks them, and the view that counted; x keeps its layout."""
    function, info, parameters = attack_of(text, cheap)
    shape = tuple(x.shape[1:])
    system = Bare(conv(shape=shape)) if model is None else model
    alone = system.model if isinstance(system, Bare) else conv(shape=shape)
    if info.gradient == "bpda" and isinstance(system, Bare):
        system = Defended(Defense(system.model), "bpda")  # BPDA needs a purifier, be it one that does nothing
    if info.trained:
        parameters |= {"steps": fit_steps, "lr": 0.01}
        function, parameters = fitted(function, parameters, system, goal, budget, shape), {}
    view = View.on(
        system,
        seeds(len(x)) if view_seed is None else view_seed,
        **{"parts": parts_of(x, alone), **options},
    )
    before = x.clone()  # not handed over: a copy need not be stored as x is
    made = function(view, x, goal, budget, seeds(len(x), cell=1) if seed is None else seed, **parameters)
    check_examples(made, before, x, budget)
    return made, view

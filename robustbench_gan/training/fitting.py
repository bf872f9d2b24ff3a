"""Attacks that must first be trained: through which system, on whose images, once for all cells that can share it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from robustbench_gan.base.digests import code_digest
from robustbench_gan.contracts.attacks import Fitted, TrainedAttack, Training, info_of
from robustbench_gan.contracts.counts import Counts, Deadline
from robustbench_gan.contracts.defense import recipe_of
from robustbench_gan.contracts.gradients import declared_gradients
from robustbench_gan.contracts.systems import Bare, Defended, System
from robustbench_gan.contracts.threat import ThreatModel
from robustbench_gan.contracts.view import View
from robustbench_gan.data.dataset import Split
from robustbench_gan.guards.guard import left_alone
from robustbench_gan.guards.seal import Attributes
from robustbench_gan.guards.strangers import codes, made
from robustbench_gan.guards.surroundings import Surroundings
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.seeds import integers, sample_seeds
from robustbench_gan.nouns.user_files import with_files
from robustbench_gan.training.checkpoint import keep_beside
from robustbench_gan.training.fetched import core_keys
from robustbench_gan.training.networks import freeze, fresh
from robustbench_gan.training.oracles import oracle_of, untrained_substitute
from robustbench_gan.training.orders import Names, Order
from robustbench_gan.training.store import Artifact
from robustbench_gan.training.substitute import dynamic

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Workshop

RECIPE_VERSION = 1


@dataclass(frozen=True)
class Ground:
    """What an attack is trained on: a system with one gradient, the attacker's images, and all that decides both."""

    name: Literal["core", "defended", "copy", "substitute"]
    system: System
    gradient: str
    draws: int
    images: Split
    recipe: dict[str, Any]


class Trained(NamedTuple):
    """A trained attack, frozen, and the substitute that it was trained on, in black-box."""

    attack: TrainedAttack
    artifact: Artifact
    ground: Ground
    substitute: nn.Module | None


def ground(workshop: Workshop, names: Names, threat: ThreatModel, named: str | None = None) -> Ground:
    """What the threat model lets an attacker train through.

    White-box the defended system, with a copy of the defense that copy; but the core where the defense optimises at
    inference and no gradient is named, since a training makes a hundred thousand passes. Gray-box the core. Black-box
    the substitute, with the images that the attacker owns; under the dynamic protocol it is untrained and learns beside
    the generator. `named` is the one gradient that an attack is defined by.
    """
    data = workshop.dataset(names[0])
    defense = workshop.copy(*names) if threat.copies else workshop.defense(*names)
    if threat.substitute == "dynamic":
        model, recipe = untrained_substitute(workshop, names, threat)
        return Ground(
            "substitute", Bare(model), "full", 1, workshop.attackers_images(names[0], threat), recipe
        )
    if threat.name == "black-box":
        model, artifact = workshop.substitute(*names, threat)
        images = workshop.attackers_images(names[0], threat)
        return Ground("substitute", Bare(model), "full", 1, images, {"key": artifact.key})
    if not threat.differentiates or (defense.unrolls and threat.gradient == "auto" and not named):
        recipe = {"base": defense.base_key, "core": core_keys(workshop, defense)}
        return Ground("core", Bare(defense.core), "full", 1, data.train, recipe)
    gradient: Any = named or (
        declared_gradients(defense)[0] if threat.gradient == "auto" else threat.gradient
    )
    recipe = {"base": defense.base_key, "defense": [*recipe_of(names[2], defense), *codes(names[2])]}
    if gradient == "truncated":
        recipe["unroll"] = threat.unroll
    system = Defended(defense, gradient, threat.unroll)
    draws = threat.draws if defense.randomised else 1
    return Ground("copy" if threat.copies else "defended", system, gradient, draws, data.train, recipe)


def train_attack(workshop: Workshop, order: Order, minutes: float | None) -> Trained:
    """A trained attack, from the store where it is there. Raises OutOfTime where its training takes so many minutes."""
    data, seed = workshop.dataset(order.names[0]), workshop.train_seed
    spec = order.attack
    kind = registry.load("attacks", spec.name)
    module: TrainedAttack = fresh(lambda: made("attacks", spec, data.shape, len(data.classes)), seed)  # type: ignore[assignment]
    on = ground(workshop, order.names, order.threat, info_of(kind).gradient)
    parts = nn.ModuleDict({"attack": module.to(workshop.device)})
    substitute = on.system.model if isinstance(on.system, Bare) and on.name == "substitute" else None
    if order.threat.substitute == "dynamic" and substitute is not None:
        parts["substitute"] = substitute  # trained beside the generator, so stored beside it

    def build() -> tuple[dict[str, Tensor], dict[str, Any]]:
        info = _fitted(workshop, order, module, on, minutes)
        return parts.state_dict(), {**info, "images": len(on.images)}

    artifact = workshop.store.fetch("attack", _recipe(workshop, order, on), build)
    parts.load_state_dict(dict(artifact.tensors))
    freeze(parts)
    for name, part in parts.items():
        workshop.seal(part, f"the trained {name}")
    return Trained(module, artifact, on, substitute)


def _recipe(workshop: Workshop, order: Order, on: Ground) -> dict[str, Any]:
    """Everything that decides the trained weights."""
    spec = order.attack
    return {
        "recipe_version": RECIPE_VERSION,
        "attack": str(spec),
        "code": with_files(code_digest(registry.load("attacks", spec.name)), spec),
        "on": [on.name, on.gradient, on.draws, on.recipe],
        "target": order.target,
        "budget": [order.budget.norm, order.budget.eps],
        "data": workshop.dataset(order.names[0]).digest,
        "seed": workshop.train_seed,
    }


def _fitted(
    workshop: Workshop, order: Order, module: TrainedAttack, on: Ground, minutes: float | None
) -> dict[str, Any]:
    """Train the attack while all else is left alone; what it says of it, and the passes that it made."""
    counts = Counts.zeros(1, workshop.device)
    keep_beside(vars(counts))
    limit = None if minutes is None else Deadline(time.monotonic() + 60 * minutes, what="training the attack")
    training = Training(on.images, _batch_views(on, counts, limit))
    with _others_left_alone(workshop, order, on):
        if order.threat.substitute == "dynamic":
            info = _in_turns(workshop, order, module, on, training)
        else:
            info = module.fit(training, order.target, order.budget, workshop.train_seed)
    if limit is not None:
        limit.insist()  # whatever a training that caught it has made of it
    return {**info, **{name: int(value) for name, value in vars(counts).items()}}


def _others_left_alone(workshop: Workshop, order: Order, on: Ground) -> AbstractContextManager[None]:
    """While an attack is trained: what it is trained on and through stays as it is."""
    real = workshop.defense(*order.names)
    held = on.system.defense if isinstance(on.system, Defended) else real
    through = [on.system.model] if isinstance(on.system, Bare) else []
    own = workshop.seals(real, held)
    workshop.put_back(order.names, real.base, real, held, *through)
    return left_alone(
        "the attack, when it was trained,",
        workshop.loaded(order.names[0]).whole(), *workshop.seals(real.base, *through),
        state=[*own, Attributes([*own, *workshop.seals(real.base)])],
        suspects=workshop.suspects(order.names, Bare(real.base), on.system),
        around=Surroundings(generators=True, thorough=True),
    )  # fmt: skip


def _batch_views(on: Ground, counts: Counts, limit: Deadline | None) -> Callable[[Tensor], View]:
    """Views of batches that all count into the one entry of `counts`, until time is up."""

    def view(seeds: Tensor) -> View:
        if limit is not None:
            limit.check()
        index = torch.zeros_like(seeds)
        return View(on.system, seeds, counts, index, draws=on.draws, whole_batches=True, deadline=limit)

    return view


def _in_turns(
    workshop: Workshop, order: Order, module: TrainedAttack, on: Ground, training: Training
) -> dict[str, Any]:
    """The dynamic protocol: substitute and generator take turns, each turn a share of the generator's steps."""
    seed, rounds, facts = workshop.train_seed, order.threat.rounds, dict[str, float]()
    training = replace(training, share=1 / rounds)
    attack = Fitted({order.target: module})

    def craft(x: Tensor, y: Tensor) -> Tensor:
        seeds = sample_seeds(seed, "dynamic", torch.arange(len(y), device=y.device))
        view = View.on(on.system, seeds, access="scores")
        if order.target is not None:
            return attack(view, x, Goal.targeted(torch.full_like(y, order.target)), order.budget, seeds)
        if not module.conditional:
            return attack(view, x, Goal.untargeted(y), order.budget, seeds)
        targets = (y + 1 + integers(seeds, module.classes - 1)) % module.classes
        return attack(view, x, Goal.targeted(targets), order.budget, seeds)

    def fit(at: int) -> None:
        done = module.fit(training, order.target, order.budget, seed + at)
        facts["steps"] = facts.get("steps", 0) + done["steps"]

    oracle = oracle_of(workshop, order.names, order.threat)
    assert isinstance(on.system, Bare)
    info = dynamic(on.system.model, on.images, oracle, craft, fit, rounds=rounds, seed=seed)
    return {**info, **facts}

"""What a black-box attacker has: its own images, the answers of the system it asks, and a substitute in the making."""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robustbench_gan.base.batching import micro_batch_size
from robustbench_gan.base.digests import code_digest
from robustbench_gan.contracts.defense import recipe_of
from robustbench_gan.contracts.threat import Bare, Defended, System, ThreatModel, answer
from robustbench_gan.data.dataset import Split
from robustbench_gan.guards.guard import Meddled
from robustbench_gan.guards.strangers import codes, made
from robustbench_gan.models import door
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.nouns.user_files import with_files
from robustbench_gan.training.checkpoint import kept
from robustbench_gan.training.loop import freeze, fresh
from robustbench_gan.training.store import Artifact
from robustbench_gan.training.substitute import RECIPE_VERSION as SUBSTITUTE_VERSION
from robustbench_gan.training.substitute import Oracle, papernot, static

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Names, Workshop


def make_substitute(workshop: Workshop, names: Names, threat: ThreatModel) -> tuple[nn.Module, Artifact]:
    """A substitute trained on an oracle's answers, sealed. Raises Meddled where what it asked changed the data."""
    model, recipe = untrained_substitute(workshop, names, threat)
    images, oracle = attackers_images(workshop, names[0], threat), oracle_of(workshop, names, threat)

    def build() -> tuple[dict[str, Tensor], dict[str, Any]]:
        rounds, seed, data = threat.rounds, workshop.train_seed, workshop.loaded(names[0])
        data.whole()
        with workshop.answering(names):
            if threat.substitute == "static":
                info = static(model, images, oracle, rounds=rounds, seed=seed)
            else:
                info = papernot(model, images, oracle, rounds=rounds, seed=seed, step_sign=threat.step_sign)
        if found := data.checked():
            raise Meddled(f"what a substitute asked changed what is not its own: {', '.join(found)}")
        return model.state_dict(), info

    artifact = workshop.store.fetch("substitute", recipe, build)
    model.load_state_dict(dict(artifact.tensors))
    workshop.seal(freeze(model), "the substitute")
    return model, artifact


def untrained_substitute(
    workshop: Workshop, names: Names, threat: ThreatModel
) -> tuple[nn.Module, dict[str, Any]]:
    """A new substitute, and everything that decides what its training makes of it."""
    data, defense = workshop.dataset(names[0]), workshop.defense(*names)
    spec = Spec.parse(threat.model)
    factory = registry.load("models", spec.name)
    model = fresh(lambda: made("models", spec, data.shape, len(data.classes)), workshop.train_seed + 1)
    recipe = {
        "recipe_version": SUBSTITUTE_VERSION,
        "protocol": threat.substitute,
        "model": str(spec),
        "code": with_files(code_digest(factory), spec),
        "rounds": threat.rounds,
        "oracle": threat.oracle,
        "base": defense.base_key,
        "defense": (
            None if threat.oracle == "undefended" else [*recipe_of(names[2], defense), *codes(names[2])]
        ),
        "data": data.digest,
        "seed": workshop.train_seed,
    }
    if threat.answers != "labels":
        recipe["answers"] = threat.answers
    if threat.step_sign != "plus":
        recipe["step_sign"] = threat.step_sign
    return door.admitted(model.to(workshop.device)), recipe


def attackers_images(workshop: Workshop, dataset: str, threat: ThreatModel) -> Split:
    """The images that a black-box attacker owns: none of them is ever judged.

    The 150 held-out test images for `papernot`, the validation split for the distillations.
    """
    data = workshop.dataset(dataset)
    return data.black_box_holdout()[0] if threat.substitute == "papernot" else data.validation


def oracle_of(workshop: Workshop, names: Names, threat: ThreatModel) -> Oracle:
    """The system that a black-box attacker may ask; no two queries are answered under the same seed."""
    defense, asked = workshop.defense(*names), Counter[int]()
    system: System = Bare(defense.base) if threat.oracle == "undefended" else Defended(defense)

    def oracle(x: Tensor) -> Tensor:
        n, first = len(x), asked[len(x)]
        asked[n] += n
        seeds = sample_seeds(
            workshop.train_seed, f"oracle/{n}", torch.arange(first, first + n, device=x.device)
        )
        size = micro_batch_size(x.device)
        pieces = zip(x.split(size), seeds.split(size), strict=True)
        return torch.cat([kept(functools.partial(told, *piece), x.device) for piece in pieces])

    @torch.no_grad()
    def told(x: Tensor, seeds: Tensor) -> Tensor:
        out = answer(system, x, seeds)
        if threat.answers == "labels":
            return out.labels
        return out.logits.softmax(dim=1) * out.accepted[:, None]

    return oracle

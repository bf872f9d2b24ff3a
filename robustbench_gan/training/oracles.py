"""What a black-box attacker has: the answers of the system it asks, and an untrained model to learn from them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robustbench_gan.base.batching import micro_batch_size
from robustbench_gan.base.digests import code_digest
from robustbench_gan.contracts.defense import recipe_of
from robustbench_gan.contracts.systems import Bare, Defended, System, answer
from robustbench_gan.contracts.threat import ThreatModel
from robustbench_gan.guards.strangers import codes, made
from robustbench_gan.models import door
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.nouns.user_files import with_files
from robustbench_gan.training.checkpoint import kept
from robustbench_gan.training.networks import fresh
from robustbench_gan.training.orders import Names

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Workshop


RECIPE_VERSION = 1  # of substitutes
# (N, C, H, W) to the labels given, (N,), -1 where rejected; or to probabilities, (N, K), all 0 where rejected
Oracle = Callable[[Tensor], Tensor]


def untrained_substitute(
    workshop: Workshop, names: Names, threat: ThreatModel
) -> tuple[nn.Module, dict[str, Any]]:
    """A new substitute, and everything that decides what its training makes of it."""
    data, defense = workshop.dataset(names[0]), workshop.defense(*names)
    spec = threat.model
    factory = registry.load("models", spec.name)
    model = fresh(lambda: made("models", spec, data.shape, len(data.classes)), workshop.train_seed + 1)
    recipe = {
        "recipe_version": RECIPE_VERSION,
        "protocol": threat.substitute,
        "model": spec.canonical,
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

"""The substitute of a black-box attacker in the making: trained on an oracle, or taken from the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from robustbench_gan.base.tensors import Meddled
from robustbench_gan.contracts.threat import ThreatModel
from robustbench_gan.training.networks import freeze
from robustbench_gan.training.orders import Names
from robustbench_gan.training.store import Artifact
from robustbench_gan.training.substitute import papernot, static

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Workshop
from robustbench_gan.training.oracles import oracle_of, untrained_substitute


def make_substitute(workshop: Workshop, names: Names, threat: ThreatModel) -> tuple[nn.Module, Artifact]:
    """A substitute trained on an oracle's answers, sealed. Raises Meddled where what it asked changed the data."""
    model, recipe = untrained_substitute(workshop, names, threat)
    images, oracle = workshop.attackers_images(names[0], threat), oracle_of(workshop, names, threat)

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

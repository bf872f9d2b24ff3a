"""What decides an answer besides names and parameters: hashes of data, of plugins' code and of the core's."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from robustbench_gan.base.digests import code_digest, files_digest
from robustbench_gan.contracts.threat import ThreatModel
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.spec import Chain, Classifier, FileReference, Spec
from robustbench_gan.nouns.user_files import with_files

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Workshop

ENGINE = (
    "base/batching", "base/machine", "base/memory", "base/python_file", "base/tensors", "base/trial",
    "cell/context", "cell/craft", "cell/evaluate", "cell/evidence", "cell/judge", "cell/prepare",
    "cell/probe", "cell/provenance", "cell/purified", "cell/rehearsal", "cell/repeated",
    "contracts/attacks", "contracts/composition", "contracts/counts", "contracts/defense",
    "contracts/differentiated", "contracts/gradients", "contracts/image_gradient", "contracts/systems",
    "contracts/threat", "contracts/view", "flags/counting", "guards/belongings", "guards/functions",
    "guards/generators", "guards/guard", "guards/interpreter", "guards/process", "guards/seal",
    "guards/setting", "guards/strangers", "guards/surroundings", "guards/torch_settings", "models/door",
    "models/from_file", "models/logits", "models/program", "models/weight_files", "nouns/budget",
    "nouns/detection", "nouns/evidence", "nouns/fields", "nouns/flag", "nouns/outcome", "nouns/record",
    "nouns/seeds", "nouns/statistics", "nouns/user_files", "training/black_box", "training/checkpoint",
    "training/classifiers", "training/defenses", "training/fetched", "training/fitting", "training/loop",
    "training/memory", "training/networks", "training/oracles", "training/orders", "training/substitute",
    "training/workshop",
)  # fmt: skip


@lru_cache
def engine_digest() -> str:
    """A hash of the core's code that decides results."""
    core = Path(__file__).parents[1]
    return files_digest(core / f"{name}.py" for name in ENGINE)


def identity_of(
    workshop: Workshop, data: Spec, model: Classifier, chain: Chain, train_seed: int
) -> dict[str, str]:
    """Hashes of everything besides names and parameters that decides an answer."""
    build = registry.load("datasets", workshop.placed(data).name)
    if isinstance(model, FileReference):
        classifier = workshop.aliases[model].digest
    else:
        classifier = with_files(code_digest(registry.load("models", model.name)), model)
    kinds = ((registry.load("defenses", spec.name), spec) for spec in chain)
    return {
        "data": workshop.dataset(data).digest[:16],
        "loader": code_digest(build),
        "classifier": classifier,
        "defense": "+".join(with_files(code_digest(kind), spec) for kind, spec in kinds),
        "engine": engine_digest(),
        "train_seed": str(train_seed),
    }


def identity_of_substitute(threat: ThreatModel) -> dict[str, str]:
    """A hash of the code of a black-box attacker's own model."""
    if threat.name != "black-box":
        return {}
    code = code_digest(registry.load("models", threat.model.name))
    return {"substitute": with_files(code, threat.model)}

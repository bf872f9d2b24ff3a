"""Adversarial examples in a file: the one layout that `--keep-adversarial` and `run_attack(...).save` write.

A safetensors file with `examples`, (S, N, C, H, W) float32 in [0, 1], and `labels`, (N,) int64, the true classes. S are
the budgets of a call of run_attack; of a cell it is 1, or its judge seeds where the attacker knows them. Further
tensors and texts in the header say more; a hash in the header finds an edit of any of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from torch import Tensor

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import expanded, write_atomically
from robustbench_gan.training.store import content_digest, packed, read_artifact, read_header

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True)
class Examples:
    """What such a file holds: `examples` (S, N, C, H, W), `labels` (N,), `more` tensors by name, `facts` as text.

    `facts` has `attack`, `norm` and `epsilons` (JSON, as text each). `digest` is a hash of all tensors.
    """

    examples: Tensor
    labels: Tensor
    more: Mapping[str, Tensor]
    facts: Mapping[str, str]
    digest: str


def write_examples(
    path: Path,
    examples: Tensor,
    labels: Tensor,
    facts: Mapping[str, str],
    more: Mapping[str, Tensor] = NOTHING,
) -> str:
    """Write a file whole or not at all, replacing what was there; the digest of its tensors.

    Raises UsageError where it cannot be written.
    """
    tensors = {**more, "examples": examples.detach().float(), "labels": labels.long()}
    write_atomically(path, packed(tensors, facts))
    return content_digest(tensors)


def read_examples(path: str | Path, mend: str = "Make it again.") -> Examples:
    """Read what `--keep-adversarial` or `run_attack(...).save` wrote.

    Raises UsageError, which ends with how to `mend` it, where it is missing, damaged, edited or something else.
    """
    place = expanded(str(path))
    artifact = read_artifact(place, mend=mend)
    tensors = dict(artifact.tensors)
    examples, labels = tensors.pop("examples", None), tensors.pop("labels", None)
    if examples is None or labels is None or examples.ndim != 5 or examples.shape[1:2] != labels.shape:
        raise UsageError(f"{place} does not hold examples (S, N, C, H, W) and labels (N,). {mend}")
    facts = {name: text for name, text in read_header(place).items() if not name.startswith("rbg-")}
    return Examples(examples, labels, tensors, facts, artifact.digest)

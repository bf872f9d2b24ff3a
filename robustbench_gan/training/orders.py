"""What is asked of a workshop: the system by its names, and an attack that must first be trained."""

from __future__ import annotations

from dataclasses import dataclass

from robustbench_gan.contracts.threat import ThreatModel
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.spec import Chain, Classifier, Spec, classifier_of

Names = tuple[Spec, Classifier, Chain]  # data set, classifier and defense


def names_of(dataset: Spec | str, classifier: Classifier | str, defense: Chain | str) -> Names:
    """A defense in front of its classifier, as a workshop remembers it, from what was written."""
    return Spec.of(dataset), classifier_of(classifier), Chain.of(defense)


@dataclass(frozen=True)
class Order:
    """What is to be trained: an attack's full spec, for which system and attacker, towards which class and how far.

    `target` is None for an untargeted goal, and for a conditional attack whatever the goal.
    """

    names: Names
    attack: Spec
    threat: ThreatModel
    target: int | None
    budget: Budget

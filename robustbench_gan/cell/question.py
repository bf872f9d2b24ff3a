"""What a cell is asked, and why it may have no answer: known before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from robustbench_gan.base import stopping
from robustbench_gan.base.redirect import aside
from robustbench_gan.contracts.attacks import AttackInfo
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.threat import ACCESS_ORDER, NOTHING_TO_COPY, ThreatModel
from robustbench_gan.guards.strangers import made
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Norm
from robustbench_gan.nouns.record import Cell
from robustbench_gan.nouns.spec import Chain

Stage = Defense | type[Defense]  # what `why_not` asks for what it declares


@dataclass(frozen=True)
class Planned:
    """A cell to run, its threat model in full, the reason why it is not applicable, and if it is a control.

    A minimal-norm attack is run once at an infinite eps; `budgets` are the finite ones it was asked for. `reference` is
    the defense that a substitute learns from, where that is not the cell's own.
    """

    cell: Cell
    threat: ThreatModel
    reason: str = ""
    control: bool = False
    budgets: tuple[float, ...] = ()
    reference: Chain | None = None


@aside()
def stages_of(chain: Chain) -> list[Stage]:
    """The defenses of a chain around no classifier, since a parameter may decide what one is.

    One that cannot be built is judged by its class: why it fails is for the cell to record.
    """
    stages: list[Stage] = []
    for spec in chain:
        try:
            stages.append(made("defenses", spec, nn.Identity()))
        except BaseException as error:
            stopping.pass_on(error)
            stages.append(registry.load("defenses", spec.name))
    return stages


def why_not(
    info: AttackInfo,
    chain: Sequence[Stage],
    threat: ThreatModel,
    goal: str,
    norm: Norm,
    eps: float = 0.0,
    classes: int = 2,
) -> str:
    """Why an attack cannot be run against a defense under a threat model; empty when it can. Known without running."""
    purifies = any(kind.purifies for kind in chain)
    randomised = any(kind.randomised for kind in chain)
    if norm not in info.norms:
        return f"the attack is defined in {', '.join(info.norms)}, not in {norm}"
    if eps == float("inf") and not (info.minimal or info.control):
        return "the attack needs a finite eps"
    if goal != "untargeted" and not info.targeted:
        return "the attack has no targeted form"
    if ACCESS_ORDER.index(info.needs) > ACCESS_ORDER.index(threat.access):
        return f"the attack needs {info.needs}, the threat model grants {threat.access}"
    if tries := too_few_queries(threat, goal, classes):
        return tries
    if threat.substitute == "dynamic" and info.needs != "nothing" and not info.trained:
        return "the dynamic protocol trains the substitute beside a generator, and the attack has none"
    if threat.name == "gray-box" and not purifies:
        return "the defense is its classifier: there is nothing for a gray-box attacker not to know"
    if threat.copies and all(_untrained(kind) for kind in chain):
        return NOTHING_TO_COPY
    if threat.name == "seed-known" and not randomised:
        return "the defense is not random: white-box already knows all there is"
    if info.gradient:
        return _why_not_gradient(info.gradient, threat, purifies)
    if threat.differentiates and info.needs == "gradient":
        if threat.gradient == "bpda" and not purifies:
            return "the defense has no purifier for BPDA to replace"
        if threat.gradient == "truncated" and not any(kind.unrolls for kind in chain):
            return "the defense has no iterations to truncate"
    return ""


def too_few_queries(threat: ThreatModel, goal: str, classes: int) -> str:
    """Why a limit of queries cannot be shared among the tries of a goal, the choice among them included."""
    tries = classes - 1 if goal == "all" else 1
    if threat.limit == 0 or tries == 1 or threat.limit // tries - 1 >= 1:
        return ""
    return f"{threat.limit} queries an image are too few for {tries} tries and a choice among them"


def _untrained(stage: Stage) -> bool:
    """A defense that names no trained part; one whose parts depend on its parameters is asked once it is fitted."""
    kind = stage if isinstance(stage, type) else type(stage)
    return kind.training_keys is Defense.training_keys


def _why_not_gradient(gradient: str, threat: ThreatModel, purifies: bool) -> str:
    if not threat.differentiates:
        return f"the attack is defined by the gradient {gradient!r} of the defended system"
    if threat.gradient not in ("auto", gradient):
        return (
            f"the attack is defined by the gradient {gradient!r}, the threat model grants {threat.gradient!r}"
        )
    return "" if purifies else "the defense has no purifier to go through"

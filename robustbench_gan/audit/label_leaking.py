"""P33: a network trained on single-step examples must not read their label off them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from robustbench_gan.audit.check import Check, Wanted
from robustbench_gan.audit.compare import above, told
from robustbench_gan.audit.record import Finding
from robustbench_gan.cell.craft import craft
from robustbench_gan.cell.judge import judge
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.outcome import correct
from robustbench_gan.nouns.spec import Spec

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System
    from robustbench_gan.flags.paired import Numbers

TRAINS = "adversarial-training"


def training_attack(system: System) -> Wanted | None:
    """The single-step attack that the defense was trained on, in the ball it was trained in; None without one."""
    for spec in system.asked.defense:
        if spec.name == TRAINS:
            values = registry.resolve("defenses", spec)[1]
            inner = values["attack"] if isinstance(values["attack"], Spec) else Spec.parse(values["attack"])
            if registry.resolve("attacks", inner)[1].get("steps", 1) == 1:
                return Wanted(str(inner), "white-box:gradient=full", values["norm"], float(values["eps"]))
    return None


def not_single_step(system: System) -> str:
    """The reason for anything but adversarial training in one step."""
    return "" if training_attack(system) else "the defense was not trained on examples of a single step"


def look(system: System) -> Finding:
    """Accuracy on the training attack's examples, crafted with the true labels, against that on the clean images."""
    wanted = training_attack(system)
    assert wanted is not None, "why_not says so before"
    run = system.run_of(wanted)
    verdict = judge(run, craft(run)[0])
    clean: Numbers = verdict.right.double().mean(dim=0).cpu().numpy()
    read = torch.stack([correct(out, run.y) for out in verdict.attacked])
    attacked: Numbers = read.double().mean(dim=0).cpu().numpy()
    test = above("label-leaking", "warning", (wanted.attack, attacked), ("clean", clean))
    return Finding(figure=told(attacked, clean), n=len(clean), tests=[test])


def seconds(system: System) -> float:
    """Of the training attack."""
    wanted = training_attack(system)
    return system.cell_seconds(wanted) if wanted else 0.0


CHECK = Check(
    "label-leaking", "P33", "is the network more accurate on its training attack than on clean images?",
    ("label-leaking",), look, "the training attack, one step", why_not=not_single_step, seconds=seconds,
)  # fmt: skip

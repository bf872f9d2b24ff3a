"""The red flags of a call of run_attack: those of a white-box cell, at every budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from robustbench_gan.api.call import Call, Found
from robustbench_gan.cell.checks import Evidence, Question, red_flags
from robustbench_gan.cell.probe import probe
from robustbench_gan.cell.purified import Shown, Watched
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.threat import Bare, Defended, answer, white_box
from robustbench_gan.models import door
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Output, correct
from robustbench_gan.nouns.record import Flag

SEVERITIES = ("invalid", "warning", "note")  # the worst first


def flags_of(call: Call, found: Found) -> tuple[Flag, ...]:
    """The flags of `rbg evaluate` for a white-box attack at each budget; each once, as it is worst."""
    worst: dict[str, Flag] = {}
    for budget, seen in zip(found.budgets, _evidence(call, found), strict=True):
        for flag in red_flags(seen):
            known = worst.get(flag.id)
            if known is None or SEVERITIES.index(flag.severity) < SEVERITIES.index(known.severity):
                at_eps = {} if len(found.budgets) == 1 else {"eps": budget.eps}
                worst[flag.id] = flag.model_copy(update={"evidence": {**flag.evidence, **at_eps}})
    return tuple(worst.values())


def _evidence(call: Call, found: Found) -> Iterator[Evidence]:
    """What there is to check at each budget. A bare model counts as the defense that does nothing."""
    system = call.systems[0]
    asked, first = (
        (system.defense, None)
        if isinstance(system, Defended)
        else (Defense(system.model), door.first_answer(system.model))
    )
    looked = probe(asked, call.x, call.judges_seeds, found.clean, first)
    defended = float(found.right.double().mean())
    alone, shown = _looked_behind(call, asked) if asked.purifies else (defended, Shown())
    controls = {"classifier": alone, "defended": defended}
    gradients = tuple(s.gradient if isinstance(s, Defended) else "full" for s in call.systems)
    for at, budget in enumerate(found.budgets):
        out, success = found.answers[at], found.success[at]
        fooled = call.goal.reached(Output.of(out.logits)) & ~out.accepted
        yield Evidence(
            _question(call, budget, gradients, found.clean.logits.shape[1]), gradients, found.made[at][1],
            found.sizes[at][None], [found.clean], found.right[None], (found.right & ~success)[None], fooled[None],
            asked.randomised, asked.purifies, asked.unrolls, controls, looked, shown=shown, drew=found.drew,
        )  # fmt: skip


def _question(call: Call, budget: Budget, gradients: Sequence[str], classes: int) -> Question:
    """What a white-box cell would be asked."""
    threat = white_box(gradient="full" if len(gradients) == 1 else "auto")
    eps = math.inf if call.info.minimal else budget.eps
    targeted = call.goal.kind != "untargeted"
    return Question(call.info, call.parameters, threat, budget.norm, eps, targeted, classes)


def _looked_behind(call: Call, defense: Defense) -> tuple[float, Shown]:
    """The accuracy of the classifier behind a purifier, and what it is shown there."""
    watched, batches = Watched(defense, len(call.x)), call.batches(len(call.x))
    with torch.no_grad():
        answer(watched, call.x, call.judges_seeds, batches)
        bare = answer(Bare(defense.base), call.x, call.judges_seeds, batches)
    return float(correct(bare, call.y).double().mean()), watched.facts()

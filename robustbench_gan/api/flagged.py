"""The red flags of a call of run_attack: those of a white-box cell, at every budget."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from robustbench_gan.api.call import Call, Found
from robustbench_gan.cell.evidence import Seen, evidence_of
from robustbench_gan.cell.probe import probe
from robustbench_gan.cell.purified import Watched
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Bare, Defended, answer
from robustbench_gan.flags.derive import Judged, red_flags
from robustbench_gan.flags.question import Question
from robustbench_gan.models import door
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.evidence import Shown
from robustbench_gan.nouns.flag import Flag
from robustbench_gan.nouns.outcome import Output, correct

SEVERITIES = ("invalid", "warning", "note")  # the worst first


def flags_of(call: Call, found: Found) -> tuple[Flag, ...]:
    """The flags of `rbg evaluate` for a white-box attack at each budget; each once, as it is worst."""
    worst: dict[str, Flag] = {}
    for budget, (seen, judged) in zip(found.budgets, _evidence(call, found), strict=True):
        for flag in red_flags(_question(call, budget), evidence_of(seen), judged):
            known = worst.get(flag.id)
            if known is None or SEVERITIES.index(flag.severity) < SEVERITIES.index(known.severity):
                at_eps = {} if len(found.budgets) == 1 else {"eps": budget.eps}
                worst[flag.id] = flag.model_copy(update={"evidence": {**flag.evidence, **at_eps}})
    return tuple(worst.values())


def _evidence(call: Call, found: Found) -> Iterator[tuple[Seen, Judged]]:
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
    right, classes = found.right[None], found.clean.logits.shape[1]
    for at, out in enumerate(found.answers):
        robust, sizes = right & ~found.success[at], found.sizes[at][None]
        fooled = call.goal.reached(Output.of(out.logits)) & ~out.accepted
        seen = Seen(
            call.info, asked, classes, found.made[at][1], [found.clean], right, robust, fooled[None], looked, shown,
            found.drew,
        )  # fmt: skip
        bits = (right.cpu().numpy(), robust.cpu().numpy())
        yield seen, Judged(*bits, sizes.cpu().numpy(), gradients, controls)


def _question(call: Call, budget: Budget) -> Question:
    """What a white-box cell would be asked."""
    eps = math.inf if call.info.minimal else budget.eps
    targeted = call.goal.kind != "untargeted"
    return Question(call.parameters, "white-box", 1, budget.norm, eps, targeted)


def _looked_behind(call: Call, defense: Defense) -> tuple[float, Shown]:
    """The accuracy of the classifier behind a purifier, and what it is shown there."""
    watched, batches = Watched(defense, len(call.x)), call.batches(len(call.x))
    with torch.no_grad():
        answer(watched, call.x, call.judges_seeds, batches)
        bare = answer(Bare(defense.base), call.x, call.judges_seeds, batches)
    return float(correct(bare, call.y).double().mean()), watched.facts()

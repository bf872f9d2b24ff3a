"""What defenses and attacks refuse before anything is run: asked once for all of their cells."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

from torch import nn

from robustbench_gan.base import stopping
from robustbench_gan.base.errors import NotApplicable, plain, said
from robustbench_gan.base.trial import Died
from robustbench_gan.cell.rehearsal import Asked, refusal
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.guards.strangers import made, naming, try_first, unchanged
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.spec import Chain, Spec


def declined_by(chain: Chain, shape: tuple[int, int, int], classes: int) -> str:
    """Why a defense cannot be built as asked, or not for such images, as it says itself; empty where it can.

    Asked once for all of its cells, so that no attack is declined alone.
    """
    for spec in chain:
        try:
            stage = made("defenses", spec, nn.Identity())
            with unchanged("defenses", spec):
                try_first("defenses", spec, partial(stage.why_not, shape, classes), (shape, classes))
                answer = stage.why_not(shape, classes)
            if isinstance(answer, str) and answer:
                return plain(answer)
        except NotApplicable as why:
            return said(why) or "it does not say why"
        except BaseException as error:  # the cell's to record
            stopping.pass_on(error)
    return ""


@lru_cache(maxsize=1024)
def refused_before(
    function: Any, attack: Spec, budget: Budget, goal: str, shape: tuple[int, int, int], classes: int
) -> str:
    """What an attack refuses whatever the system is; empty where it refuses nothing, or is a stranger's to ask later.

    Ours check before their first pass, and so do those that say `checks_first`; any other's code runs in its cells
    alone, where it harms nothing else. Raises UsageError for parameters that it refuses.
    """
    info = info_of(function)
    ours = registry.entry("attacks", attack.name).is_ours
    if not (ours or info.checks_first) or budget.norm not in info.norms:
        return ""
    parameters = registry.resolve("attacks", attack)[1]
    asked = Asked(budget, goal != "untargeted", shape, classes)
    with unchanged("attacks", attack), naming(attack):
        try:
            try_first("attacks", attack, lambda: refusal(function, info, parameters, asked), asked)
        except Died:
            return ""  # the cell's to record
        return refusal(function, info, parameters, asked)

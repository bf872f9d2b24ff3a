"""Red flags of cells without a number: why an attack is not applicable, and what ended one. No torch."""

from __future__ import annotations

from robustbench_gan.flags.catalogue import flag
from robustbench_gan.flags.question import Question
from robustbench_gan.nouns.flag import Flag


def undefined_losses(q: Question, classes: int) -> list[Flag]:
    """What the parameters of an attack that found itself not applicable say, of data of so many classes."""
    loss = str(q.parameters.get("loss", ""))
    least = 4 if q.targeted or loss == "dlr-targeted" else 3
    if not loss.startswith("dlr") or classes >= least:
        return []
    return [flag("dlr-undefined", classes=classes, needed=least)]


def flags_of_error(error: BaseException) -> list[Flag]:
    """The flag that names a failure, where there is one."""
    try:
        name = getattr(error, "flag", "")
    except Exception:  # a stranger's exception may be anything
        return []
    told = isinstance(name, str) and name in ("disconnected-gradient", "budget-violation", "not-a-number")
    return [flag(name, "invalid")] if told else []

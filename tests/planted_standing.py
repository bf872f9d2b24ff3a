"""Records that differ in how many images stand, and the flags that are raised across them."""

from __future__ import annotations

import math
from typing import Any

from robustbench_gan.flags.across import across
from robustbench_gan.nouns.flag import Flag
from robustbench_gan.nouns.record import Cell, Outcomes, Result

N = 100
DYNAMIC = Flag(id="inference-time-optimisation", severity="note", message="m")


def record(
    stands: int | str | list[str],
    *,
    attack: str = "pgd:steps=40",
    threat: str = "white-box:gradient=auto",
    status: str = "ok",
    backward: int = 1,
    forward: int = 1,
    size: float | list[float] = 0.1,
    more: dict[str, Any] | None = None,
    **changes: Any,
) -> Result:
    """A cell of N images, of which the first `stands` are robust, all of them right unperturbed."""
    robust = ["1" * stands + "0" * (N - stands)] if isinstance(stands, int) else stands
    robust = [robust] if isinstance(robust, str) else robust
    n = len(robust[0])
    values: dict[str, Any] = {
        "dataset": "mnist", "classifier": "a", "defense": "magnet", "attack": attack, "threat": threat, "norm": "linf",
        "eps": 0.3, "first": 150, "samples": n, "judge_seeds": len(robust), "identity": {"train_seed": "0"},
    }  # fmt: skip
    cell = Cell(**(values | changes))
    sizes = [size] * n if isinstance(size, float) else size
    outcomes = Outcomes(
        clean=["1" * n] * len(robust), accepted=["1" * n] * len(robust), robust=robust, size=[sizes],
        forward=[forward] * n, backward=[backward] * n,
    )  # fmt: skip
    facts = {"cell": cell, "fingerprint": cell.fingerprint, "status": status, "outcomes": outcomes}
    return Result(**{**facts, "reason": "" if status == "ok" else "x", **(more or {})})


def carried(stands: int, **changes: Any) -> Result:
    return record(stands, threat="black-box:model=b", **changes)


def noise(stands: int, **changes: Any) -> Result:
    return record(stands, attack="noise", backward=0, forward=0, more={"control": True}, **changes)


def square(stands: int, **changes: Any) -> Result:
    return record(stands, **{"attack": "square:queries=100", "backward": 0, **changes})


def unbounded(stands: int, **changes: Any) -> Result:
    return record(stands, **{"attack": "cw", "eps": math.inf, "norm": "l2", **changes})


def raised(*results: Result) -> dict[str, tuple[str, list[Result]]]:
    """Flag to severity and the cells accused."""
    found: dict[str, tuple[str, list[Result]]] = {}
    for one in across(results).found:
        cells = [r for r in results if r.fingerprint in one.cells]
        found.setdefault(one.flag.id, (one.flag.severity, []))[1].extend(cells)
    return found

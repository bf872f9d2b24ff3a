"""Results written down by hand, a directory of them, and the ranking that a page shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planted_records import coherent

from robustbench_gan.flags.catalogue import CATALOGUE
from robustbench_gan.nouns.record import Cell, Outcomes, Result, Seconds
from robustbench_gan.results.places import place
from robustbench_gan.results.stored import write_text

ZERO_GRADIENT = CATALOGUE["zero-gradient"].raised("invalid")


def cell(**changes: Any) -> Cell:
    values: dict[str, Any] = {
        "dataset": "mnist",
        "classifier": "a",
        "defense": "none",
        "attack": "pgd",
        "threat": "white-box",
    }
    values |= {"norm": "linf", "eps": 0.3, "first": 0, "samples": 4, "identity": {"engine": "1"}}
    return Cell(**(values | changes))


def outcomes(robust: str | list[str], clean: str | None = None, size: float | list[float] = 0.3) -> Outcomes:
    judged = [robust] if isinstance(robust, str) else robust
    n = len(judged[0])
    all_clean = [clean or "1" * n] * len(judged)
    sizes = [[size] * n] if isinstance(size, float) else [size]
    accepted = ["1" * n] * len(judged)
    return Outcomes(
        clean=all_clean, accepted=accepted, robust=judged, size=sizes, forward=[40] * n, backward=[20] * n
    )


def result(
    robust: str | list[str] = "",
    *,
    status: str = "ok",
    size: float | list[float] = 0.3,
    clean: str | None = None,
    more: dict[str, Any] | None = None,
    **changes: Any,
) -> Result:
    found = outcomes(robust, clean, size) if robust else None
    if found:
        changes |= {"samples": len(found.forward), "judge_seeds": len(found.robust)}
    asked = cell(**changes)
    reason = "" if found else f"because it is {status}"
    values: dict[str, Any] = {
        "cell": asked,
        "fingerprint": asked.fingerprint,
        "status": status,
        "reason": reason,
    }
    values |= {"outcomes": found, "seconds": Seconds(training=9, crafting=2, judging=1)}
    return coherent(Result(**(values | (more or {}))), **(more or {}))


def ranking(page: str, section: int = 0) -> dict[str, list[str]]:
    """The rows of a section's first table by defense, as lists of cells."""
    lines = page.split("\n## ")[section + 1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| rank"))
    found = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [text.strip() for text in line.strip("|").split(" | ")]
        found[cells[1]] = cells
    return found


def store(directory: Path, name: str, *results: Result) -> None:
    for one in results:
        path = directory / "results" / name / place(one.cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(write_text(one))


MIXED = [
    result("1110", defense="good"),
    result("1111", defense="good", attack="noise", more={"control": True}),
    result("1000", defense="weak"),
    result("1111", defense="weak", attack="noise", more={"control": True}),
    result("1111", defense="broken", status="suspect", more={"flags": [ZERO_GRADIENT]}),
    result("1111", defense="broken", attack="noise", more={"control": True}),
    result(status="failed", defense="crashed", more={"reason": "ValueError: a|b"}),
    result(status="failed", defense="crashed", attack="noise", more={"control": True}),
]

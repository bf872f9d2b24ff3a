"""Records made by hand, completed so that no part of one contradicts another."""

from __future__ import annotations

from typing import Any

import numpy as np

from robustbench_gan.flags.catalogue import CATALOGUE
from robustbench_gan.flags.derive import with_flags
from robustbench_gan.nouns.evidence import Evidence
from robustbench_gan.nouns.flag import Flag
from robustbench_gan.nouns.record import Result
from robustbench_gan.nouns.statistics import Spread
from robustbench_gan.results.stored import _checksum, _digest

DIFFERENTIATING = ("white-box", "seed-known", "gray-box:copy")
VALUES = 100  # that each example changes, where the norm does not say


def coherent(made: Result, **changes: Any) -> Result:
    """The same result with the accuracies, spreads, flags and reason that its outcomes and flags imply."""
    flags = [_as_in_the_catalogue(flag) for flag in made.flags]
    if made.outcomes is None:
        values: dict[str, Any] = {"flags": flags, "substitute": {}, "controls": {}, "weights": {}}
        return made.model_copy(update={**values, **changes})
    if made.status == "suspect" and not any(f.severity == "invalid" for f in flags):
        flags.append(CATALOGUE["zero-gradient"].raised("invalid"))
    clean, accepted, robust = (made.outcomes.array(name) for name in ("clean", "accepted", "robust"))
    won = clean & ~robust
    size = np.asarray(made.outcomes.size)
    lost = size[won if len(size) > 1 else won.any(axis=0, keepdims=True)]
    forward, threat = made.outcomes.forward, made.cell.threat_name
    values = {
        "flags": flags,
        "reason": "; ".join(f.id for f in flags if f.severity == "invalid"),
        "controls": {"classifier": 1.0, **made.controls, "defended": float(clean.mean())},
        "attacked": {"classifier": 0.0, "defended": float((robust & accepted).mean())},
        "distortion": _spreads(lost, made.cell.norm) if len(lost) else {},
        "gradients": ["full"] if threat in DIFFERENTIATING else [],
        "substitute": made.substitute if threat == "black-box" else {},
    }
    if threat == "query":
        counts = {"median": float(np.median(forward)), "max": max(forward), "total": sum(forward)}
        values["queries"] = {"answers": "scores", "limit": 0, **counts}
    return made.model_copy(update={**values, **changes})


def with_evidence(made: Result, **changes: Any) -> Result:
    """A result of an attack by gradients with evidence that nothing contradicts, and the flags that it raises."""
    found = made.outcomes
    assert found is not None
    attackable = found.array("clean").any(axis=0)
    whole: dict[str, Any] = {
        "needs": "gradient", "classes": 10, "purifies": True, "called": int(attackable.sum()),
        "differentiated": int((attackable & (np.asarray(found.backward) > 0)).sum()),
    }  # fmt: skip
    return with_flags(made.model_copy(update={"evidence": Evidence(**{**whole, **changes})}))


def _as_in_the_catalogue(flag: Flag) -> Flag:
    known = CATALOGUE.get(flag.id)
    return flag.model_copy(update={"message": known.summary}) if known else flag


def _spreads(sizes: Any, norm: str) -> dict[str, Spread]:
    """Of examples that change VALUES values, all by the same amount or, where the norm is linf, one by its size."""
    own = {"mean": float(sizes.mean()), "median": float(np.median(sizes)), "max": float(sizes.max())}
    l0 = dict.fromkeys(own, float(VALUES))
    if norm == "linf":
        return {"l0": Spread(**l0), "l2": Spread(**own), "linf": Spread(**own)}
    if norm == "l2":
        least = {name: value / VALUES**0.5 for name, value in own.items()}
        return {"l0": Spread(**l0), "l2": Spread(**own), "linf": Spread(**least)}
    one = dict.fromkeys(own, 1.0)
    return {"l0": Spread(**(own if norm == "l0" else l0)), "l2": Spread(**one), "linf": Spread(**one)}


def resealed(raw: dict[str, Any]) -> dict[str, Any]:
    """What a forger does who has read the code: both digests are made anew."""
    content = {key: value for key, value in raw.items() if key not in ("digest", "checksum")}
    content["digest"] = _digest(content)
    return {**content, "checksum": _checksum(content)}

"""What arithmetic knows of substitutes, copies, trained attacks and queries. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from robustbench_gan.nouns.record import Result
from robustbench_gan.results.arithmetic import is_sane, is_whole


def attackers_are(result: Result) -> Iterator[str]:
    """What substitutes, copies and query attackers are said to have done."""
    n, spec = result.cell.samples, dict(result.cell.threat.params)
    for name in ("substitute", "attacked_copy", "trained", "queries"):
        facts: Mapping[str, Any] = getattr(result, name)
        numbers = {key: value for key, value in facts.items() if not isinstance(value, str)}
        if not all(is_sane(value) for value in numbers.values()):
            yield f"{name}: a number that is not 0 or more"
            return
        for key in {"accuracy", "agreement"} & set(facts):
            if not isinstance(facts[key], float) or not facts[key] <= 1:
                yield f"{name}.{key}: no share"
            elif name == "attacked_copy" and not is_whole(facts[key] * n):
                yield f"{name}.{key}: no share of {n} images"
    for key, own in (
        ("protocol", "substitute"),
        ("model", "model"),
        ("oracle", "oracle"),
        ("answers", "answers"),
    ):
        said, asked = result.substitute.get(key), spec.get(own)
        if said is not None and asked is not None and str(said) != str(asked):
            yield f"substitute.{key}: {said!r:.40}, and the threat model says {asked!r:.40}"
    yield from _made(result)
    yield from _queries(result, spec)


def _made(result: Result) -> Iterator[str]:
    """Of whatever the attacker is said to have trained, the weights are named."""
    named = result.weights
    if result.outcomes is None or not named:
        return
    if bool(result.trained) != any(name.partition(".")[0] == "attack" for name in named):
        yield "trained: not what the weights say of the attack"
    own = bool(result.substitute) and result.substitute.get("protocol") != "dynamic"
    if own != ("substitute" in named):
        yield "substitute: not what the weights say of it"
    parts = sum(name.startswith("copy.") for name in named)
    if result.attacked_copy.get("parts", 0) != parts:
        yield f"attacked_copy: not of the {parts} parts whose weights are named"


def _queries(result: Result, spec: Mapping[str, Any]) -> Iterator[str]:
    asked, found = result.queries, result.outcomes
    if not asked or found is None:
        return
    forward = np.asarray(found.forward, dtype=np.float64)
    own = {"median": float(np.median(forward)), "max": forward.max(), "total": forward.sum()}
    own |= {"limit": spec["limit"]} if "limit" in spec else {}
    if any(key not in asked or asked[key] != value for key, value in own.items()):
        yield "queries: not those of the passes, or not the threat model's limit"
    if spec.get("access", asked.get("answers")) != asked.get("answers"):
        yield "queries.answers: not what the threat model grants"
    if own.get("limit") and own["max"] > own["limit"]:
        yield f"queries: {own['max']:g} of an image, above the limit of {own['limit']}"
    if any(found.backward):
        yield "outcomes: gradients of an attacker who has queries alone"

"""The points of a sweep: a defense at every combination of values, or at those of one parameter at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from robustbench_gan.base.errors import UsageError, unknown
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.spec import Chain, Spec

# Commas inside one pair of parentheses belong to a value: attack=pgd(steps=10,step=0.05),fgsm
_VALUE = re.compile(r"(?:[^,()]|\([^()]*\))+")


@dataclass(frozen=True)
class Axis:
    """One parameter and the values it takes, as written: `iterations=25,50,100`."""

    name: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Axis:
        """Read `NAME=v1,v2,...`. Raises UsageError for anything else and for a value given twice."""
        name, equals, rest = text.partition("=")
        values = tuple(value.strip() for value in _VALUE.findall(rest))
        if (
            not equals
            or not name.strip()
            or not values
            or ",".join(values) != re.sub(r"\s*,\s*", ",", rest.strip())
        ):
            raise UsageError(f"--over {text}: expected NAME=value,value, as in iterations=25,50,100.")
        if len(set(values)) != len(values):
            raise UsageError(f"--over {text}: a value is given twice.")
        return cls(name.strip(), values)


@dataclass(frozen=True)
class Point:
    """One defense of a sweep: what it was made from, the values given to it, and its whole spec.

    `axis` is the parameter varied, when parameters are varied one at a time.
    """

    defense: Chain
    values: tuple[tuple[str, str], ...]
    spec: Chain
    axis: str = ""


def points(defenses: Sequence[Chain], axes: Sequence[Axis], *, one_at_a_time: bool) -> list[Point]:
    """Every defense at every combination of values, or at the values of one axis at a time.

    Raises UsageError for a parameter that a defense does not have.
    """
    if len({axis.name for axis in axes}) != len(axes):
        raise UsageError("--over: a parameter is given twice; put all of its values into one list.")
    found = []
    for defense in defenses:
        chosen: list[tuple[str, tuple[tuple[str, str], ...]]]
        if one_at_a_time:
            chosen = [(axis.name, ((axis.name, value),)) for axis in axes for value in axis.values]
        else:
            chosen = [
                ("", tuple(zip((a.name for a in axes), combination, strict=True)))
                for combination in product(*(axis.values for axis in axes))
            ]
        found += [Point(defense, values, varied(defense, values), axis) for axis, values in chosen]
    return found


def varied(defense: Chain, values: Iterable[tuple[str, str]]) -> Chain:
    """A defense's spec with some parameters set anew; of a composition, those of the one stage that has them.

    `stage.name` names the stage where several have it. Raises UsageError where none has, or several.
    """
    chain = list(defense)
    for name, value in values:
        stage, _, parameter = name.rpartition(".")
        known = [registry.parameters(registry.load("defenses", spec.name)) for spec in chain]
        owners = [
            n for n, spec in enumerate(chain) if parameter in known[n] and stage in ("", spec.name)
        ]  # fmt: skip
        if not owners:
            raise unknown(
                f"parameter of {str(defense)!r} in --over:", name, {p for each in known for p in each}
            )
        if len(owners) > 1:
            raise UsageError(
                f"--over {name}: several stages of {defense} have it; write {chain[owners[0]].name}.{parameter}=."
            )
        chain[owners[0]] = chain[owners[0]].replaced(dict(Spec.parse(f"x:{parameter}={value}").params))
    return Chain(tuple(chain))

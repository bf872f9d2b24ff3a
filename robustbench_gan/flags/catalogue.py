"""Every red flag, in the order of the pitfalls they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from robustbench_gan.base.errors import unknown
from robustbench_gan.flags.gradients import GRADIENTS
from robustbench_gan.flags.known import COMPUTED, Known
from robustbench_gan.flags.randomness import RANDOMNESS
from robustbench_gan.flags.strength import STRENGTH
from robustbench_gan.flags.systems import SYSTEMS

if TYPE_CHECKING:
    from robustbench_gan.nouns.fields import Fact
    from robustbench_gan.nouns.flag import Flag, Severity

CATALOGUE: Mapping[str, Known] = {k.id: k for k in (*GRADIENTS, *RANDOMNESS, *STRENGTH, *SYSTEMS)}
BY_CONSTRUCTION: Mapping[str, str] = {
    "P21, the mean of worst cases and not the worst of means": (
        "the headline takes, image by image, the attack that hurts it most, so no page can show the other number"
    ),
    "P30, how rejected inputs are counted": (
        "a rejected clean image always counts as an error and a rejected example as no success, and both shares "
        "stand in every record of a defense with detectors; `rejects-clean-images` says when the first is high"
    ),
    "P34, no clean accuracy": (
        "no cell is judged without an unperturbed control under the same draws, and no record with a number is "
        "valid without it"
    ),
}


def known(name: str) -> Known:
    """The catalogue's entry. Raises UsageError with the nearest names for one that is not there."""
    if name not in CATALOGUE:
        raise unknown("flag", name, CATALOGUE)
    return CATALOGUE[name]


def flag(name: str, severity: Severity | None = None, /, **evidence: Fact) -> Flag:
    """A flag of the catalogue, raised."""
    return CATALOGUE[name].raised(severity, **evidence)


def explained(name: str) -> list[str]:
    """Lines for people: what the flag is, when it is raised, and the paragraph."""
    entry = known(name)
    return [
        f"{entry.id} ({entry.pitfall}; {' or '.join(entry.severities)}; {COMPUTED[entry.where]})",
        f"Raised: {entry.rule}",
        f"Applies to: {entry.applies}",
        entry.explanation,
    ]

"""A red flag as records hold it. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
)

from robustbench_gan.nouns.fields import Fact, Validated

Severity = Literal["invalid", "warning", "note"]


class Flag(Validated):
    """A red flag with the evidence that raised it. An `invalid` one makes the result suspect."""

    id: str
    severity: Severity
    message: str
    evidence: dict[str, Fact] = Field(default_factory=dict)

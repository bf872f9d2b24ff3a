"""What an audit asks and what it finds, as validated JSON. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import read_text
from robustbench_gan.nouns.fields import Fact
from robustbench_gan.nouns.flag import Flag, Severity
from robustbench_gan.nouns.record import AChain, AClassifier, ASpec
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.nouns.statistics import Interval

SCHEMA_VERSION: Final = 1
LARGEST: Final = 32 * 2**20  # bytes
NO_PROOF: Final = (
    "Passing is no proof: these checks can show that an evaluation misleads, never that a defense holds."
)
Verdict = Literal["nothing found", "flagged", "not applicable", "not run", "failed"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Asked(_Record):
    """The system under audit and how it is attacked. Texts are specs; eps is on pixels in [0, 1]."""

    defense: AChain
    dataset: ASpec = Spec("mnist")
    classifier: AClassifier = Spec("small-cnn")
    norm: str = "linf"
    eps: float = 0.3
    samples: int = 100
    seed: int = 0
    train_seed: int = 0
    steps: int = 40
    eot: int = 20  # draws a pass averages over where the defense is random


class Compared(_Record):
    """A question that chance could answer: does `high` lie above `low` by more than `least`, with this p?"""

    flag: str
    severity: Severity
    p: float = Field(ge=0, le=1)
    high: float
    low: float
    least: float
    evidence: dict[str, Fact] = Field(default_factory=dict)


class Finding(_Record):
    """What a check saw before the correction: a figure on n images, flags beyond doubt, and tests."""

    figure: str = ""
    n: int = 0
    interval: Interval | None = None
    flags: list[Flag] = Field(default_factory=list)
    tests: list[Compared] = Field(default_factory=list)
    not_applicable: str = ""  # why, where only the look could tell
    failed: str = ""  # the error that ended it


class Row(_Record):
    """One check of an audit and its verdict; `p` is the smallest of its tests, corrected for all of the audit."""

    check: str
    pitfall: str
    question: str
    verdict: Verdict
    reason: str = ""
    figure: str = ""
    n: int = 0
    interval: Interval | None = None
    p: float | None = None
    flags: list[Flag] = Field(default_factory=list)
    seconds: float = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> Row:
        if self.verdict not in ("flagged", "failed") and self.flags:
            raise ValueError(f"{self.check} is {self.verdict!r} and holds flags")
        if self.verdict == "flagged" and not self.flags:
            raise ValueError(f"{self.check} is flagged and holds no flag")
        if self.verdict in ("not applicable", "not run", "failed") and not self.reason:
            raise ValueError(f"{self.check} is {self.verdict!r} and must say why")
        return self


class Audit(_Record):
    """An audit that was completed. That it holds no flag proves nothing."""

    schema_version: Literal[1] = SCHEMA_VERSION
    asked: Asked
    comparisons: int = Field(ge=0)  # tests of the audit, which Holm's correction takes as one family
    rows: list[Row] = Field(min_length=1)
    statement: str = NO_PROOF
    versions: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _says_what_it_is(self) -> Audit:
        if self.statement != NO_PROOF:
            raise ValueError("an audit says that passing is no proof")
        return self

    @property
    def invalid(self) -> list[str]:
        """The ids of every invalid flag, sorted."""
        return sorted({f.id for row in self.rows for f in row.flags if f.severity == "invalid"})

    @property
    def failed(self) -> list[str]:
        """The checks that ended in an error."""
        return [row.check for row in self.rows if row.verdict == "failed"]


def write_text(audit: Audit) -> str:
    """The record as indented JSON that `read_audit` gives back unchanged."""
    return json.dumps(json.loads(audit.model_dump_json()), indent=1, sort_keys=True) + "\n"


def read_audit(path: Path) -> Audit:
    """Read and validate one audit. Raises UsageError that says what is wrong with it and how to mend it."""
    try:
        return Audit.model_validate_json(read_text(path, LARGEST))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "record"
        raise UsageError(
            f"{path} is not a valid audit: {place}: {first['msg']}. Delete it and run `rbg audit` again."
        ) from error

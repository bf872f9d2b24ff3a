"""What is known of a red flag before any run: its catalogue entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from robustbench_gan.nouns.flag import Flag, Severity

if TYPE_CHECKING:
    from robustbench_gan.nouns.fields import Fact

Where = Literal["cell", "run", "audit"]
COMPUTED = {
    "cell": "computed in each cell",
    "run": "computed across the cells of a run",
    "audit": "computed by audit",
}


@dataclass(frozen=True)
class Known:
    """One flag of the catalogue.

    `severities` are those it can have, the worst first, and `rule` says what picks one. `applies` is the condition on
    attack, defense and threat model. `summary` is one line, `explanation` a paragraph with what to do about it.
    """

    id: str
    pitfall: str
    severities: tuple[Severity, ...]
    rule: str
    applies: str
    where: Where
    summary: str
    explanation: str

    def raised(self, severity: Severity | None = None, **evidence: Fact) -> Flag:
        """The flag with its evidence; `severity` may be left out where there is but one."""
        if severity is None:
            (severity,) = self.severities
        assert severity in self.severities, (self.id, severity)
        return Flag(id=self.id, severity=severity, message=self.summary, evidence=evidence)

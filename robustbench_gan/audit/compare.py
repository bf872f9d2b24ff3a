"""Two accuracies on the same images as a test of the audit, and the correction for asking many of them. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from robustbench_gan.audit.record import Compared, Finding, Row, Verdict
from robustbench_gan.flags import flag
from robustbench_gan.flags import thresholds as at
from robustbench_gan.flags.paired import Numbers, at_least, chance_above, holm
from robustbench_gan.nouns.statistics import interval

if TYPE_CHECKING:
    from robustbench_gan.nouns.fields import Fact
    from robustbench_gan.nouns.flag import Flag, Severity


def above(
    name: str,
    severity: Severity,
    accused: tuple[str, Numbers],
    witness: tuple[str, Numbers],
    *,
    least: float | None = None,
) -> Compared:
    """Does the accused leave more standing than the witness? By an exact one-sided sign test over images.

    Both are a name and (N,), the mean over judge seeds of an image's outcome. `least` is the smallest difference that
    matters, the catalogue's tolerance by default.
    """
    (one, a), (other, b) = accused, witness
    high, low = float(a.mean()), float(b.mean())
    least = at.tolerance(low, len(a)) if least is None else least
    evidence: dict[str, Fact] = {
        "accuracy": _short(high),
        "of": one,
        "against": _short(low),
        "witness": other,
        "images": len(a),
    }
    return Compared(
        flag=name, severity=severity, p=chance_above(a, b), high=high, low=low, least=least, evidence=evidence
    )


def finding(
    name: str, severity: Severity, accused: tuple[str, Numbers], witness: tuple[str, Numbers]
) -> Finding:
    """All that a check finds which asks nothing else than `above`."""
    (_, a), (_, b) = accused, witness
    return Finding(figure=told(a, b), n=len(a), tests=[above(name, severity, accused, witness)])


def apart(name: str, severity: Severity, one: tuple[str, Numbers], other: tuple[str, Numbers]) -> Compared:
    """Do two accuracies differ at all, either way? By an exact two-sided sign test and the catalogue's margin."""
    larger, smaller = sorted((one, other), key=lambda side: -float(side[1].mean()))
    test = above(name, severity, larger, smaller, least=at.MARGIN)
    return test.model_copy(update={"p": min(1.0, 2 * test.p)})


def share_above(
    name: str, severity: Severity, count: int, tries: int, share: float, least: float = 0.0
) -> Compared:
    """Do more of so many tries come true than this share of them? By an exact one-sided binomial test."""
    high = count / tries if tries else 0.0
    evidence: dict[str, Fact] = {"count": count, "of": tries, "share": share}
    p = at_least(count, tries, share)
    return Compared(flag=name, severity=severity, p=p, high=high, low=share, least=least, evidence=evidence)


def told(accused: Numbers, witness: Numbers, between: str = "against") -> str:
    """Both accuracies with their intervals."""
    return f"{interval(accused, 'audit')} {between} {interval(witness, 'audit')}"


def corrected(findings: Mapping[str, Finding]) -> dict[str, tuple[list[Flag], float | None]]:
    """The flags of every check and its smallest p, all tests of the audit corrected together by Holm's method.

    A test raises its flag where its corrected p is at most LEVEL and the difference above the smallest that matters.
    """
    tests = [test for finding in findings.values() for test in finding.tests]
    chances = iter(holm([test.p for test in tests]))
    verdicts: dict[str, tuple[list[Flag], float | None]] = {}
    for name, finding in findings.items():
        judged = [(test, next(chances)) for test in finding.tests]
        raised = [_raised(test, p, len(tests)) for test, p in judged if _held(test, p)]
        verdicts[name] = [*finding.flags, *_worst(raised)], min((p for _, p in judged), default=None)
    return verdicts


def _held(test: Compared, p: float) -> bool:
    return p <= at.LEVEL and test.high - test.low > test.least + 1e-12


def _raised(test: Compared, p: float, comparisons: int) -> Flag:
    evidence = {**test.evidence, "p": _short(p), "comparisons": comparisons}
    return flag(test.flag, test.severity, **evidence)


def _worst(raised: list[Flag]) -> list[Flag]:
    """Of several flags of one name that of the smallest p: a check says a thing once."""
    best: dict[str, Flag] = {}
    for one in raised:
        if one.id not in best or float(one.evidence["p"]) < float(best[one.id].evidence["p"]):
            best[one.id] = one
    return list(best.values())


def row(check: str, pitfall: str, question: str, finding: Finding, flags: list[Flag], p: float | None) -> Row:
    """The line of the verdict table for a check that was looked at."""
    verdict: Verdict = "flagged" if flags else "nothing found"
    if finding.not_applicable or finding.failed:
        verdict = "failed" if finding.failed else "not applicable"
    return Row(
        check=check, pitfall=pitfall, question=question, verdict=verdict, figure=finding.figure, n=finding.n,
        reason=finding.failed or finding.not_applicable, interval=finding.interval, p=p, flags=flags,
    )  # fmt: skip


def _short(value: float) -> float:
    return float(f"{value:.4g}")

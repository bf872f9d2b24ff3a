"""An audit at work: cells through the engine, looks stored as they finish, one correction, one verdict table."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import importlib_metadata
from pydantic import ValidationError

from robustbench_gan.audit.compare import corrected, row
from robustbench_gan.audit.record import Audit, Finding, Row
from robustbench_gan.base import stopping
from robustbench_gan.base.digests import files_digest
from robustbench_gan.base.errors import NotApplicable, UsageError, describe, said
from robustbench_gan.base.files import slug, write_text_atomically
from robustbench_gan.base.redirect import aside
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.engine.execute import execute, finished

if TYPE_CHECKING:
    from robustbench_gan.audit.check import Check, Wanted
    from robustbench_gan.audit.system import System
    from robustbench_gan.cell.question import Planned
    from robustbench_gan.nouns.record import Result

PACKAGES = ("robustbench-gan", "torch", "numpy")
Told = Callable[[str], None]


@dataclass(frozen=True)
class Skipped:
    """Why a check is not looked at."""

    verdict: str
    reason: str


def why_not(check: Check, system: System) -> str:
    """Why a check does not apply, known before any run; empty where it does."""
    reason = check.why_not(system)
    if not reason:
        reason = next((why for w in check.cells(system) if (why := system.planned(w).reason)), "")
    return reason


@aside()
def audit(
    system: System, checks: Sequence[Check], out: Path, *, max_check_minutes: float | None, on_work: Told,
    on_replaced: Callable[[Path], None] = lambda kept: None,
) -> Audit:  # fmt: skip
    """Run the checks, go on from what `out` holds of an earlier run, and correct for having asked all of them.

    `on_replaced` is told where earlier records of cells that were judged anew are kept.

    An error of a defense, an attack or a check ends in its row as `failed`. Raises UsageError for bad input; an
    interrupt passes, and what was finished stays in `out`.
    """
    skipped = _left_out(system, checks, out, max_check_minutes, on_work)
    asked = [check for check in checks if check.name not in skipped]
    spent, findings = dict.fromkeys((check.name for check in checks), 0.0), dict[str, Finding]()
    for check in asked:
        with _counted(spent, check):
            _run_cells(check, system, out, on_work, on_replaced)
    for check in asked:
        if unusable := _unusable(check, system):
            skipped[check.name] = unusable
            continue
        on_work(check.name)
        with _counted(spent, check):
            findings[check.name] = _looked(check, system, out)
    return Audit(
        asked=system.published,
        comparisons=sum(len(finding.tests) for finding in findings.values()),
        rows=_rows(system, checks, skipped, findings, spent),
        versions={name: importlib_metadata.version(name) for name in PACKAGES},
    )


@contextmanager
def _counted(spent: dict[str, float], check: Check) -> Iterator[None]:
    """Add the seconds that a block takes to those of its check."""
    started = time.perf_counter()
    yield
    spent[check.name] += time.perf_counter() - started


def _left_out(
    system: System, checks: Sequence[Check], out: Path, max_check_minutes: float | None, on_work: Told
) -> dict[str, Skipped]:
    """The checks that are known not to be made before any is: those that do not apply, and those that take too long."""
    skipped = {}
    for check in checks:
        if reason := why_not(check, system):
            skipped[check.name] = Skipped("not applicable", reason)
        elif max_check_minutes is not None:
            on_work(f"estimating {check.name}")
            if reason := _too_long(check, system, out, max_check_minutes):
                skipped[check.name] = Skipped("not run", reason)
    return skipped


def _rows(
    system: System,
    checks: Sequence[Check],
    skipped: Mapping[str, Skipped],
    findings: Mapping[str, Finding],
    spent: Mapping[str, float],
) -> list[Row]:
    """The verdict table: all tests of the audit are corrected together for being many."""
    verdicts, rows = corrected(findings), []
    for check in checks:
        if check.name in skipped:
            made = _skipped_row(check, skipped[check.name], system)
        else:
            made = row(check.name, check.pitfall, check.question, findings[check.name], *verdicts[check.name])
        rows.append(made.model_copy(update={"seconds": round(spent[check.name], 3)}))
    return rows


def _too_long(check: Check, system: System, out: Path, limit: float) -> str:
    """Why a check is not run: what it still has to do is estimated above the limit. Empty where it is not.

    The PGD cell that checks share is counted where it is what a check runs alone. What cannot be estimated is run.
    """
    try:
        wanted = [w for w in check.cells(system) if w != system.pgd()] or check.cells(system)
        todo = [w for w in wanted if finished(out, system.planned(w)) is None]
        base = system.pgd()
        shared = base in check.cells(system) and finished(out, system.planned(base)) is None
        costs = [system.cell_seconds(w) for w in todo]
        looking = 0.0 if _stored(check, system, out) else check.seconds(system)
        longest = max(sum(costs) + looking, system.cell_seconds(base) if shared else 0.0)
    except BaseException as error:
        stopping.pass_on(error)
        return ""
    if longest <= 60 * limit:
        return ""
    return f"estimated at {longest / 60:.1f} minutes, above the limit of {limit:g}"


def _run_cells(
    check: Check, system: System, out: Path, on_work: Told, on_replaced: Callable[[Path], None]
) -> None:
    wanted: dict[str, Wanted] = {}
    for cell in check.cells(system):
        if cell not in system.results:
            wanted[system.planned(cell).cell.fingerprint] = cell

    def on_result(item: Planned, result: Result, stored: bool) -> None:
        system.results[wanted[item.cell.fingerprint]] = result

    execute(
        [system.planned(cell) for cell in wanted.values()], system.workshop, Settings(system.batch_size), out,
        on_step=lambda step: on_work(f"{check.name}: {step.kind} {step.label}"), on_result=on_result,
        on_replaced=on_replaced, run_cell=evaluate_cell,
    )  # fmt: skip


def _unusable(check: Check, system: System) -> Skipped | None:
    """What keeps a check from being looked at: a cell of it that has no number."""
    for wanted in check.cells(system):
        result = system.results[wanted]
        if result.outcomes is None:
            verdict = result.status if result.status in ("failed", "not applicable") else "not run"
            return Skipped(verdict, f"{wanted.attack} under {wanted.threat}: {result.reason}")
    return None


def _looked(check: Check, system: System, out: Path) -> Finding:
    """What a check sees, or saw in an earlier run; what only reads the cells' results does so again."""
    if known := _stored(check, system, out):
        return known
    try:
        with stopping.PluginCall():
            found = check.look(system)
    except NotApplicable as why:
        return Finding(not_applicable=said(why))
    except BaseException as error:  # whatever a defense raises: a check that crashed has not passed
        stopping.pass_on(error)
        return Finding(failed=describe(error))
    if check.kept:
        write_text_atomically(_place(check, system, out), found.model_dump_json(indent=1) + "\n")
    return found


def _stored(check: Check, system: System, out: Path) -> Finding | None:
    """What an earlier run saw, if everything that decides it is the same. Raises UsageError for a damaged file."""
    path = _place(check, system, out)
    if not check.kept or not path.exists():
        return None
    try:
        return Finding.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise UsageError(f"{path} is no finding of this version; delete it and run again.") from error


def _place(check: Check, system: System, out: Path) -> Path:
    """One file a check and everything that decides what it sees."""
    cells = [system.planned(w).cell.fingerprint for w in (system.pgd(), *check.cells(system))]
    asked = [check.name, *cells, system.published.model_dump_json(), _own_code()]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    return out / "checks" / f"{slug(check.name)}-{digest}.json"


@lru_cache
def _own_code() -> str:
    here = Path(__file__).parent
    return files_digest(here.glob("*.py"))


def _skipped_row(check: Check, why: Skipped, system: System) -> Row:
    """A check that was not looked at; one whose cell failed keeps the flag that names the failure."""
    flags = []
    if why.verdict == "failed":
        failed = [system.results[w] for w in check.cells(system) if system.results[w].status == "failed"]
        flags = [flag for result in failed[:1] for flag in result.flags]
    return Row.model_validate({
        "check": check.name, "pitfall": check.pitfall, "question": check.question, "verdict": why.verdict,
        "reason": why.reason, "flags": flags,
    })  # fmt: skip

"""What `rbg audit` does: plan, run with progress, print the verdict table, write audit.md and audit.json."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_gan.audit.printing import closing, console_table, markdown
from robustbench_gan.audit.record import Audit, read_audit, write_text
from robustbench_gan.audit.run import audit, why_not
from robustbench_gan.base import progress
from robustbench_gan.base.errors import UsageError, told
from robustbench_gan.base.files import keep_replaced, write_text_atomically
from robustbench_gan.base.terminal import console_for
from robustbench_gan.engine.live import RichReporter, live_bars, say_replaced

if TYPE_CHECKING:
    from robustbench_gan.audit.check import Check
    from robustbench_gan.audit.system import System


def plan(system: System, checks: Sequence[Check], as_json: bool) -> None:
    """Print what each check asks, runs and costs, or why it does not apply; nothing is trained or run."""
    rows = [
        {
            "check": check.name,
            "pitfall": check.pitfall,
            "question": check.question,
            "cost": check.cost,
            "cells": [dict(wanted._asdict(), eps=f"{wanted.eps:g}") for wanted in check.cells(system)],
            "not_applicable": why_not(check, system),
        }
        for check in checks
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        cost = f"not applicable: {row['not_applicable']}" if row["not_applicable"] else row["cost"]
        click.echo(f"{row['check']} ({row['pitfall']}): {row['question']}\n    {told(str(cost))}")
    cells = {w for check in checks if not why_not(check, system) for w in check.cells(system)}
    runs = sum(not row["not_applicable"] for row in rows)
    click.echo(f"{runs} of {len(rows)} checks to run, which share {len(cells)} cells.")


def run(
    system: System, checks: Sequence[Check], out: Path, *, max_check_minutes: float | None, as_json: bool,
    strict: bool,
) -> int:  # fmt: skip
    """Audit and report; the exit code: 1 where a check failed or, with `strict`, an invalid flag was raised."""
    console = console_for(stderr=True)
    names = " / ".join(map(str, system.names()))
    write_text_atomically(out / "checks" / ".writable", "")
    (out / "checks" / ".writable").unlink(missing_ok=True)
    console.print(
        f"audit of {names}: {len(checks)} checks on {system.workshop.device}; results in {out}", markup=False
    )
    replaced: list[Path] = []
    with live_bars(console) as bars:
        now = bars.add_task("audit", total=None)
        with progress.reporting_to(RichReporter(bars)):
            found = audit(
                system, checks, out, max_check_minutes=max_check_minutes,
                on_work=lambda what: bars.update(now, description=f"audit, now {what}"),
                on_replaced=replaced.append,
            )  # fmt: skip
    replaced += _kept(found, out)
    write_text_atomically(out / "audit.json", write_text(found))
    write_text_atomically(out / "audit.md", markdown(found))
    _print(found, out, as_json)
    say_replaced(replaced, out, console)
    doubtful = strict and found.invalid
    if doubtful:
        console.print(f"--strict: invalid flags were raised: {', '.join(found.invalid)}.")
    return 1 if doubtful or found.failed else 0


def _kept(found: Audit, out: Path) -> list[Path]:
    """Keep an earlier audit in the same place that asked something else or found something else; where it is."""
    path = out / "audit.json"
    if not path.exists():
        return []
    with contextlib.suppress(UsageError):
        if _timeless(read_audit(path)) == _timeless(found):
            return []
    files = (path, out / "audit.md")
    return [keep_replaced(file, out) for file in files if file.exists()][:1]


def _timeless(audit: Audit) -> Audit:
    return audit.model_copy(update={"rows": [row.model_copy(update={"seconds": 0.0}) for row in audit.rows]})


def _print(found: Audit, out: Path, as_json: bool) -> None:
    console = console_for(stderr=as_json)
    console.print(f"audit: {out / 'audit.md'}", markup=False)
    console.print(console_table(found))
    for line in closing(found):
        console.print(line, markup=False, highlight=False)
    if as_json:
        click.echo(write_text(found), nl=False)

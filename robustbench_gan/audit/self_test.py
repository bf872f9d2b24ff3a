"""The self-test: every control in ordinary cells or audits, and whether what was meant for it was raised."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from rich.table import Table
from rich.text import Text

from robustbench_gan.audit.check import Check
from robustbench_gan.audit.controls import CLASSIFIER, CONTROLS, Control, invalid
from robustbench_gan.audit.record import Asked
from robustbench_gan.audit.run import audit
from robustbench_gan.audit.system import System
from robustbench_gan.base import progress
from robustbench_gan.base.redirect import aside
from robustbench_gan.base.terminal import console_for
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.engine.executors import evaluate_apart
from robustbench_gan.engine.layout import lay_out
from robustbench_gan.engine.live import RichReporter, live_bars
from robustbench_gan.engine.matrix import Matrix
from robustbench_gan.flags.across import across
from robustbench_gan.nouns.record import Result
from robustbench_gan.nouns.spec import Chain, Spec
from robustbench_gan.training.device import pick_device
from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import Workshop

DATASET, SAMPLES, SEEDS = "control-digits", 100, (0, 1, 2)


@dataclass(frozen=True)
class Found:
    """What was said of a control: the flags as `id (severity)`, the statuses, and whether that is what was meant."""

    raised: tuple[str, ...]
    statuses: tuple[str, ...]
    caught: bool


@dataclass(frozen=True)
class Row(Found):
    """One control under one seed. Of an honest system `caught` says that nothing invalid was raised."""

    control: str
    meant: str
    seed: int


Finder = Callable[[Control, Workshop, int], Found]  # the workshop trains from the seed
Chosen = Callable[
    [Sequence[str]], Sequence[Check]
]  # the checks of some names, as `catalogue.chosen` gives them


@aside()
def self_test(
    seeds: Iterable[int] = SEEDS,
    *,
    chosen: Chosen,
    dataset: str = DATASET,
    store: Store | None = None,
    device: torch.device | None = None,
    controls: Sequence[Control] = CONTROLS,
    on_row: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Run every control under every seed, which is that of trainings, attack and judge alike.

    `on_row` is told of each row as it comes.
    """
    find: dict[str, Finder] = {"cell": in_cells(dataset), "audit": by_audit(dataset, chosen)}
    rows = []
    for seed in seeds:
        workshop = Workshop(store or Store(), device or torch.device("cpu"), seed)
        for control in controls:
            found = find[control.found_by](control, workshop, seed)
            row = Row(**vars(found), control=control.name, meant=control.meant, seed=seed)
            rows.append(row)
            on_row(row)
    return rows


def in_cells(dataset: str) -> Finder:
    """Judge a control by the records of its cells, and by what they say of each other."""

    def find(control: Control, workshop: Workshop, seed: int) -> Found:
        results = cells(control, workshop, seed, dataset)
        findings = across(results)
        flags = [f for r in results for f in r.flags] + [one.flag for one in findings.found]
        caught = all(control.told_by(r) for r in results)
        if control.honest:
            caught = caught and not findings.invalid
        raised = sorted({f"{f.id} ({f.severity})" for f in flags})
        return Found(tuple(raised), tuple(sorted({r.status for r in results})), caught)

    return find


def by_audit(dataset: str, chosen: Chosen) -> Finder:
    """Judge a control by the verdicts of its checks in an audit; a check that was not made has caught nothing."""

    def find(control: Control, workshop: Workshop, seed: int) -> Found:
        asked = Asked(
            defense=Chain.of(control.defense), dataset=Spec.of(dataset), classifier=Spec.of(CLASSIFIER),
            norm=control.norm, eps=control.eps, samples=SAMPLES, seed=seed, train_seed=seed,
        )  # fmt: skip
        with TemporaryDirectory() as out:
            found = audit(
                System(asked, workshop), chosen(control.checks), Path(out), max_check_minutes=None,
                on_work=lambda check: None,
            )  # fmt: skip
        flags = [flag for row in found.rows for flag in row.flags]
        made = all(row.verdict in ("flagged", "nothing found") for row in found.rows)
        told = not invalid(flags) if control.honest else control.flag in [flag.id for flag in flags]
        raised = sorted({f"{f.id} ({f.severity})" for f in flags})
        return Found(tuple(raised), tuple(sorted({row.verdict for row in found.rows})), made and told)

    return find


def cells(control: Control, workshop: Workshop, seed: int, dataset: str) -> list[Result]:
    """The results of a control's cells, one an attack."""
    asked = Matrix(
        datasets=[Spec.of(dataset)], classifiers=[Spec.of(CLASSIFIER)], defenses=[Chain.of(control.defense)],
        attacks=[Spec.of(text) for text in control.attacks], threats=[Spec.of(control.threat)],
        norm=control.norm, eps=[control.eps], judge_seeds=control.judge_seeds,
        samples=SAMPLES, seed=seed, train_seed=seed,
    )  # fmt: skip
    return [
        evaluate_apart(planned, workshop, Settings(), seconds=control.timeout)
        if control.timeout
        else evaluate_cell(planned, workshop, Settings())
        for planned in lay_out(asked, workshop)
    ]


def report(seeds: Iterable[int], *, chosen: Chosen, dataset: str, device: str, as_json: bool) -> int:
    """Run the self-test for the command line; returns the exit code, 1 where a row is not as it was meant."""
    console, started = console_for(stderr=True), time.monotonic()

    def say(row: Row) -> None:
        said = Text("as meant " if row.caught else "NOT SO   ", style="green" if row.caught else "red")
        console.print(
            said.append(f"seed {row.seed}  {row.control}: {', '.join(row.raised) or 'no flag'}", "")
        )

    with live_bars(console) as bars, progress.reporting_to(RichReporter(bars)):
        rows = self_test(seeds, chosen=chosen, dataset=dataset, device=pick_device(device), on_row=say)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        console_for(stderr=False).print(_table(rows))
    wrong = [row for row in rows if not row.caught]
    console.print(f"{len(rows) - len(wrong)} of {len(rows)} as meant, in {time.monotonic() - started:.0f} s.")
    console.print(
        "A self-test says that the checks see these faults. It says nothing of a fault that is not here."
    )
    return 1 if wrong else 0


def _table(rows: Sequence[Row]) -> Table:
    """One line a control, with the seeds under which it went as meant."""
    table = Table(title="self-test", title_justify="left")
    for column in ("control", "meant for it", "raised", "as meant"):
        table.add_column(column, overflow="fold")
    for name in dict.fromkeys(row.control for row in rows):
        own = [row for row in rows if row.control == name]
        raised = ", ".join(sorted({flag for row in own for flag in row.raised}))
        right = sum(row.caught for row in own)
        style = "" if right == len(own) else "red"
        table.add_row(name, own[0].meant, raised, Text(f"{right} of {len(own)} seeds", style=style))
    return table

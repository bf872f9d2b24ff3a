"""A run of the command line: live progress, results as they finish, the leaderboard at the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.text import Text

from robustbench_gan.base import progress, stopping
from robustbench_gan.base.errors import UsageError, told
from robustbench_gan.base.files import refuse_links, remove_leftovers, write_atomically
from robustbench_gan.base.terminal import console_for
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.cell.question import Planned
from robustbench_gan.engine.execute import execute
from robustbench_gan.engine.executors import evaluate_apart
from robustbench_gan.engine.live import RichReporter, live_bars, say_derived, say_replaced
from robustbench_gan.engine.matrix import Matrix
from robustbench_gan.engine.plan import Step, labels_of, result_path, steps_of
from robustbench_gan.flags.across import Findings, across, invalid_flags
from robustbench_gan.leaderboard.console import console_table
from robustbench_gan.leaderboard.contradictions import told as told_across
from robustbench_gan.leaderboard.flat import robust_interval, rows
from robustbench_gan.leaderboard.labels import Labels, radius
from robustbench_gan.leaderboard.write import build, refuse_to_replace
from robustbench_gan.nouns.record import Result, Status
from robustbench_gan.training.workshop import Workshop

FLAG_STYLES = {"invalid": "red", "warning": "yellow"}
MEANINGS: dict[Status, str] = {
    "failed": "count neither as attacked nor as robust; their reason stands in the leaderboard",
    "suspect": "hold numbers that do not mean what they say; they never rank",
    "not run": "were estimated above --max-cell-minutes, or stopped there",
}
STYLES = {"ok": "green", "suspect": "yellow", "failed": "red"}


@dataclass
class _AtWork:
    """A run at work: what it has found so far, and what it shows of that."""

    out: Path
    console: Console
    bars: Progress
    called: Labels
    overall: TaskID
    finished: list[Result] = field(default_factory=list)
    begun: bool = False
    replaced: list[Path] = field(default_factory=list)
    derived: list[tuple[Result, Result]] = field(default_factory=list)
    kept: list[Result] = field(default_factory=list)

    def on_step(self, step: Step) -> None:
        """Say what is being done now."""
        self.begun = self.begun or step.kind == "cell"
        self.bars.update(self.overall, description=told(f"cells, now {step.kind}: {step.label}"))

    def on_result(self, item: Planned, result: Result, stored: bool) -> None:
        """A line for what was computed; what was on disk only counts."""
        self.finished.append(result)
        self.bars.advance(self.overall)
        if stored:
            self.kept.append(result)
        elif result.status != "not applicable":
            self.console.print(_line(result, self.called))

    def on_derived(self, before: Result, now: Result) -> None:
        """A result whose flags the checks of today derived anew."""
        self.derived.append((before, now))

    def say_of_earlier(self) -> None:
        """What became of the results that were on disk."""
        say_replaced(self.replaced, self.out, self.console)
        say_derived(self.derived, self.kept, self.console)

    def write_page(self) -> None:
        """The leaderboard of what is finished, if anything is."""
        if self.finished:
            build(self.out, current=self.finished, say=self.console.print)

    @contextmanager
    def page_in_any_case(self) -> Iterator[None]:
        """However the block ends, the leaderboard of what is finished is written before the exception passes on."""
        try:
            with stopping.closing(self.write_page), stopping.closing(self.bars.stop):
                yield
        except (KeyboardInterrupt, UsageError) as error:
            stopping.let_go()
            if isinstance(error, UsageError) and self.begun:
                error.code = 1  # it is not the command that was wrong
            self.say_of_earlier()
            try:
                self.write_page()
            except UsageError as unwritten:  # on a full disk there is no room for the page either
                raise error from unwritten
            raise


def run(
    asked: Matrix,
    planned: list[Planned],
    workshop: Workshop,
    *,
    out: Path,
    batch_size: int,
    as_json: bool,
    strict: bool = False,
    cell_timeout: float | None = None,
    keep_adversarial: bool = False,
) -> int:
    """Run a matrix and write DIR/results and DIR/README.md; returns the exit code, 1 if a cell failed.

    `strict` also returns 1 for an `invalid` flag, of a cell or across cells. With `cell_timeout`, in seconds, each
    cell runs in a process of its own that is killed after so long. `keep_adversarial` keeps each cell's examples
    beside its record.

    Interrupted, or stopped by an error that the user can mend, it writes the leaderboard of what is finished
    and passes the exception on.
    """
    console = console_for(stderr=True)
    _check_place(planned, out)
    _announce(asked, planned, workshop, out, console)
    settings = Settings(batch_size, asked.max_cell_minutes, out if keep_adversarial else None)
    run_cell = evaluate_cell if cell_timeout is None else partial(evaluate_apart, seconds=cell_timeout)
    with live_bars(console) as bars:
        overall = bars.add_task("cells", total=len(planned))
        work = _AtWork(out, console, bars, labels_of(planned), overall)
        with work.page_in_any_case(), progress.reporting_to(RichReporter(bars)):
            execute(
                planned, workshop, settings, out, run_cell=run_cell, apart=cell_timeout is not None,
                on_step=work.on_step, on_result=work.on_result, on_replaced=work.replaced.append,
                on_derived=work.on_derived,
            )  # fmt: skip
    return _end(planned, work, as_json, strict)


def _check_place(planned: Sequence[Planned], out: Path) -> None:
    """Find out before hours of work that results cannot be written, and clear what a killed run left half written.

    Raises UsageError.
    """
    refuse_to_replace(out / "README.md")
    probe = out / "results" / ".writable"
    write_atomically(probe, b"")
    probe.unlink(missing_ok=True)
    for item in planned:
        refuse_links(result_path(out, item), out)
    remove_leftovers(out)
    remove_leftovers(out / "results", below=True)


def _announce(
    asked: Matrix, planned: Sequence[Planned], workshop: Workshop, out: Path, console: Console
) -> None:
    """What is going to be done, and what the names of the user's own things stand for."""
    trained = sum(s.kind != "cell" for s in steps_of(planned))
    console.print(
        f"{asked.name}: {len(planned)} cells, {sum(bool(p.reason) for p in planned)} not applicable, "
        f"{trained} shared steps, on {workshop.device}; results in {out}"
    )
    for name, own in workshop.aliases.items():
        console.print(Text(f"{name} is {own}"))


def _end(planned: Sequence[Planned], work: _AtWork, as_json: bool, strict: bool) -> int:
    """Write the leaderboard, print what came out, and say what speaks against it; the exit code."""
    out, console, finished = work.out, work.console, work.finished
    gone = sum(not result_path(out, item).is_file() for item in planned)
    page = build(out, current=finished, say=console.print) if gone < len(planned) else None
    findings = across(finished)
    _print_end(finished, len(planned), page, as_json, findings)
    work.say_of_earlier()
    if gone:
        console.print(
            Text(
                f"{gone} of {len(planned)} results are not in {out} any more: they were deleted or moved "
                "while this ran. The same command runs them again.",
                style="red",
            )
        )
    doubtful = strict and invalid_flags(finished, findings)
    if doubtful:
        console.print(f"--strict: invalid flags were raised: {', '.join(doubtful)}.")
    return 1 if doubtful or gone or any(r.status == "failed" for r in finished) else 0


def _line(result: Result, called: Labels) -> Text:
    """One finished cell on one line, by names that tell the cells of this run apart, with the numbers of the table."""
    cell = result.cell
    kinds = called.telling("classifier", "defense", "threat", "attack")
    what = " / ".join(called(kind, getattr(cell, kind)) for kind in kinds)
    numbers = []
    for eps in result.budgets or [cell.eps]:
        if robust := robust_interval(result, eps):
            where = f" at {radius(cell.norm, eps)}" if result.budgets else ""
            numbers.append(f"robust {robust}{where}, n {robust.n}")
    shown = "".join(f"  {number}" for number in numbers)
    reason = f"  {result.reason}" if result.reason else ""
    spent = result.seconds.crafting + result.seconds.judging
    text = Text(f"{result.status:8}", style=STYLES.get(result.status, "dim"))
    return text.append(told(f" {what}{shown}{reason}  ({spent:.1f} s)"), style="default")


def _print_end(
    finished: Sequence[Result], cells: int, page: Path | None, as_json: bool, findings: Findings
) -> None:
    """The table of what came out, how many cells ended how, and the flags across them."""
    shown = [r for r in finished if r.status != "not applicable"]
    console = console_for(stderr=as_json)
    console.print(console_table(shown or finished, findings))
    by_status = Counter(result.status for result in finished)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(by_status.items()))
    console.print(f"{cells} cells: {counts}.")
    for status, meaning in MEANINGS.items():
        if status in by_status:
            console.print(f"{by_status[status]} {status} cells {meaning}.")
    for severity, line in told_across(findings, finished):
        console.print(Text(f"{severity}: {line}", style=FLAG_STYLES.get(severity, "default")))
    raised = {f.id for r in finished for f in r.flags} | {one.flag.id for one in findings.found}
    if raised:
        console.print(
            f"{len(raised)} kind{'' if len(raised) == 1 else 's'} of red flags raised; `rbg explain FLAG` says what "
            "one means."
        )
    if page is not None:
        console.print(f"leaderboard: {page}")
    if as_json:
        click.echo(json.dumps(rows(finished, findings=findings), indent=1, allow_nan=False))

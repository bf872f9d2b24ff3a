"""A run of the command line: live progress, results as they finish, the leaderboard at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.text import Text

from robustbench_gan.base import progress, stopping
from robustbench_gan.base.errors import UsageError, told, unknown
from robustbench_gan.base.files import REPLACED, refuse_links, remove_leftovers, write_atomically
from robustbench_gan.base.progress import Advance
from robustbench_gan.base.redirect import aside
from robustbench_gan.base.terminal import console_for
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.question import Planned
from robustbench_gan.contracts.systems import Defended, answer
from robustbench_gan.engine.executors import evaluate_apart
from robustbench_gan.engine.matrix import Matrix
from robustbench_gan.engine.naming import canonical, check_weights, name_classifier, name_dataset
from robustbench_gan.engine.plan import Step, execute, labels_of, result_path, steps_of
from robustbench_gan.flags.across import Findings, across, invalid_flags
from robustbench_gan.leaderboard import build, console_table, refuse_to_replace, rows
from robustbench_gan.leaderboard.contradictions import told as told_across
from robustbench_gan.leaderboard.flat import robust_interval
from robustbench_gan.leaderboard.labels import Labels, radius
from robustbench_gan.nouns.record import Result
from robustbench_gan.nouns.registry import names
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.nouns.spec import Chain, Spec
from robustbench_gan.nouns.user_files import is_file_reference
from robustbench_gan.training.loop import accuracy
from robustbench_gan.training.workshop import Workshop

FLAG_STYLES = {"invalid": "red", "warning": "yellow"}
STYLES = {"ok": "green", "suspect": "yellow", "failed": "red"}


class RichReporter:
    """Shows running steps as rich progress bars with the time each still needs."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Advance]:
        """A bar that lives as long as the step."""
        task = self.bars.add_task(told(description), total=total)
        try:
            yield lambda amount: self.bars.advance(task, amount)
        finally:
            self.bars.remove_task(task)


def live_bars(console: Console) -> Progress:
    """Progress bars on standard error; on something that is no terminal they stay silent."""
    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), Remaining(), console=console, transient=True,
    )  # fmt: skip


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
    refuse_to_replace(out / "README.md")
    _check_writable(out)
    for item in planned:
        refuse_links(result_path(out, item), out)
    remove_leftovers(out)
    remove_leftovers(out / "results", below=True)
    finished: list[Result] = []
    begun: list[Step] = []
    replaced: list[Path] = []
    derived: list[tuple[Result, Result]] = []
    kept: list[Result] = []
    settings = Settings(batch_size, asked.max_cell_minutes, out if keep_adversarial else None)
    run_cell = None if cell_timeout is None else partial(evaluate_apart, seconds=cell_timeout)
    called = labels_of(planned)
    trained = sum(s.kind != "cell" for s in steps_of(planned))
    console.print(
        f"{asked.name}: {len(planned)} cells, {sum(bool(p.reason) for p in planned)} not applicable, "
        f"{trained} shared steps, on {workshop.device}; results in {out}"
    )
    for name, own in workshop.aliases.items():
        console.print(Text(f"{name} is {own}"))
    with live_bars(console) as bars:
        overall = bars.add_task("cells", total=len(planned))

        def on_step(step: Step) -> None:
            if step.kind == "cell":
                begun.append(step)
            bars.update(overall, description=told(f"cells, now {step.kind}: {step.label}"))

        def on_result(item: Planned, result: Result, stored: bool) -> None:
            finished.append(result)
            bars.advance(overall)
            if stored:
                kept.append(result)
            if not stored and result.status != "not applicable":
                console.print(_line(result, called))

        def close() -> None:
            if finished:
                build(out, current=finished, say=console.print)

        try:
            with (
                progress.reporting_to(RichReporter(bars)),
                stopping.closing(close),
                stopping.closing(bars.stop),
            ):
                execute(
                    planned, workshop, settings, out, on_step=on_step, on_result=on_result,
                    on_replaced=replaced.append, on_derived=lambda *both: derived.append(both), run_cell=run_cell,
                )  # fmt: skip
        except (KeyboardInterrupt, UsageError) as error:
            stopping.let_go()
            if isinstance(error, UsageError) and begun:
                error.code = 1  # it is not the command that was wrong
            say_replaced(replaced, out, console)
            say_derived(derived, kept, console)
            try:
                close()
            except UsageError as unwritten:  # on a full disk there is no room for the page either
                raise error from unwritten
            raise
    gone = sum(not result_path(out, item).is_file() for item in planned)
    page = build(out, current=finished, say=console.print) if gone < len(planned) else None
    findings = across(finished)
    _print_end(finished, planned, page, as_json, findings)
    say_replaced(replaced, out, console)
    say_derived(derived, kept, console)
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


def say_replaced(replaced: Sequence[Path], out: Path, console: Console) -> None:
    """Say how many earlier records this run took the place of, and where they are now."""
    if replaced:
        console.print(
            Text(
                f"replaced: {len(replaced)} earlier results, which other code, data or weights of the same names gave; "
                f"they are kept in {out / REPLACED}, which no leaderboard reads unless it is named."
            )
        )


def say_derived(derived: Sequence[tuple[Result, Result]], kept: Sequence[Result], console: Console) -> None:
    """Say how many earlier records got the flags of today's checks, and how many hold nothing to derive them from."""
    if derived:
        moved = sum(before.status != now.status for before, now in derived)
        changed = sum(before.flags != now.flags for before, now in derived)
        console.print(
            Text(
                f"flags derived anew: {len(derived)} earlier results by the checks of today, {changed} of them with "
                f"other flags and {moved} with another status; no cell was run for it."
            )
        )
    if bare := sum(result.outcomes is not None and result.evidence is None for result in kept):
        console.print(
            Text(
                f"flags left as they were: {bare} earlier results, written before evidence was kept. Delete them to "
                "run their cells again."
            )
        )


def _check_writable(out: Path) -> None:
    """Find out before hours of work that results cannot be written. Raises UsageError."""
    probe = out / "results" / ".writable"
    write_atomically(probe, b"")
    probe.unlink(missing_ok=True)


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
    finished: Sequence[Result], planned: list[Planned], page: Path | None, as_json: bool, findings: Findings
) -> None:
    shown = [r for r in finished if r.status != "not applicable"]
    console = console_for(stderr=as_json)
    console.print(console_table(shown or finished, findings))
    by_status: dict[str, int] = {}
    for result in finished:
        by_status[result.status] = by_status.get(result.status, 0) + 1
    counts = ", ".join(f"{count} {status}" for status, count in sorted(by_status.items()))
    console.print(f"{len(planned)} cells: {counts}.")
    for status, meaning in (
        ("failed", "count neither as attacked nor as robust; their reason stands in the leaderboard"),
        ("suspect", "hold numbers that do not mean what they say; they never rank"),
        ("not run", "were estimated above --max-cell-minutes, or stopped there"),
    ):
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


@aside()
def train_all(
    specs: Sequence[str], workshop: Workshop, *, dataset: str, classifier: str
) -> list[dict[str, Any]]:
    """Train what each spec names, a model or a defense, and print its accuracy on all test images.

    Raises UsageError for a spec that cannot be before anything is trained.
    """
    console, done = console_for(stderr=True), []
    check_weights([classifier], workshop)
    data = name_dataset(canonical("datasets", Spec.of(dataset)), workshop)
    base = name_classifier(classifier, workshop)
    models = names("models")
    asked = [(text, *_in_full(text, models)) for text in specs]
    with live_bars(console) as bars, progress.reporting_to(RichReporter(bars)):
        for text, is_model, spec in asked:
            row = {"spec": text}
            row |= (
                _train_model(spec, data, workshop) if is_model else _train_defense(spec, data, base, workshop)
            )
            done.append(row)
            facts = ", ".join(f"{k} {v:.4f}" for k, v in row.items() if isinstance(v, float))
            console.print(Text(f"{text}: {facts}"))
    return done


def _in_full(text: str, models: Sequence[str]) -> tuple[bool, str]:
    """Whether a spec names a model rather than a defense, and the spec with every parameter."""
    if is_file_reference(text):
        raise UsageError(
            f"{text}: a classifier given as a file brings its own weights; train what stands on it, as in "
            f"`rbg train magnet --classifier {text} --weights FILE.safetensors`."
        )
    chain = Chain.of(text)
    if len(chain) == 1 and chain[0].name in models:
        return True, canonical("models", chain[0])
    if len(chain) == 1 and chain[0].name not in names("defenses"):
        raise unknown("model or defense", chain[0].name, [*models, *names("defenses")])
    return False, "+".join(canonical("defenses", spec) for spec in chain)


def _train_model(text: str, data: str, workshop: Workshop) -> dict[str, Any]:
    model, artifact = workshop.classifier(data, text)
    test = accuracy(model, workshop.dataset(data).test)
    return {"key": artifact.key, "test_accuracy": test, **artifact.info}


def _train_defense(text: str, data: str, base: str, workshop: Workshop) -> dict[str, Any]:
    """A defense's own clean accuracy is measured on the first 1,000 test images: some are slow."""
    defense = workshop.defense(data, base, text)
    x, y = workshop.images(data, 0, min(1000, len(workshop.dataset(data).test)))
    with torch.no_grad():
        out = answer(Defended(defense), x, sample_seeds(0, "train", torch.arange(len(x), device=x.device)))
    keys = dict(defense.training_keys())
    info = {f"{n}.{k}": v for n, key in keys.items() for k, v in workshop.store.used[key].info.items()}
    return {"keys": keys, "test_accuracy": float((out.labels == y).double().mean()), **info}

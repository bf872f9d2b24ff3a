"""What a running command shows on standard error: bars while it works, and what it put aside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.text import Text

from robustbench_gan.base.errors import told
from robustbench_gan.base.files import REPLACED
from robustbench_gan.base.progress import Advance
from robustbench_gan.nouns.record import Result


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


def say_replaced(replaced: Sequence[Path], out: Path, console: Console) -> None:
    """Say how many earlier records this run took the place of, and where they are now."""
    if replaced:
        console.print(
            Text(
                f"replaced: {len(replaced)} earlier results, which other code, data or weights of the same names gave; "
                f"they are kept in {out / REPLACED}, which no leaderboard reads unless it is named."
            )
        )

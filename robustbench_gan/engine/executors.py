"""A cell in a process of its own, which is killed when its time is up: nothing inside a hung attack can stop it.

The process is a fresh one. It makes, or takes from the store, everything that the cell shares with others, says that it
is ready, and from then on its time counts. With it goes all that it has started. The result comes back as JSON; nothing
is unpickled from disk.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from robustbench_gan.base import processes, progress, stopping, trial
from robustbench_gan.base.errors import Fatal
from robustbench_gan.base.progress import Advance
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.cell.question import Planned
from robustbench_gan.engine.execute import train
from robustbench_gan.engine.plan import Step, steps_of
from robustbench_gan.nouns.record import Result
from robustbench_gan.training.workshop import Workshop

TICK = 0.5  # seconds between two looks at the clock and at the process
SILENT = 60.0  # seconds that what cells share may be in the making without a sign of progress, or the limit if longer
MAKING, BEGUN, ADVANCED, ENDED, READY, DONE, FATAL = (
    "making", "begun", "advanced", "ended", "ready", "done", "fatal",
)  # fmt: skip


def evaluate_apart(planned: Planned, workshop: Workshop, settings: Settings, *, seconds: float) -> Result:
    """`evaluate_cell` in a process of its own: the same result, or `failed` where it took longer than `seconds`.

    What cells share is made there as well, before, and does not count; nor does the start of the process. A process
    that dies, of a lack of memory or a fault in compiled code, fails its cell alone; one that dies while it makes what
    cells share fails those that need it. Raises as `evaluate_cell` does.
    """
    if planned.reason:
        return evaluate_cell(planned, workshop, settings)
    if died := next((why for s in _shared(planned) if (why := workshop.memory.get(_died(s)))), None):
        return _failed(planned, died)
    # without what is in memory: the store has all of it
    plain = replace(workshop, store=replace(workshop.store, used={}), memory={})
    with _started(planned, plain, settings) as (process, ours):
        making: list[Step] = []
        try:
            return _answer(planned, ours, process, seconds, making)
        except _Silent as silent:
            step = making[-1]
            why = (
                f"killed after {silent.seconds:g} s in which the making of its {step.kind}, {step.label}, showed no "
                "progress: --cell-timeout ends what hangs; a long training reports to progress.task of "
                "robustbench_gan.base"
            )
            workshop.memory[_died(step)] = why
            return _failed(planned, why)
        except (EOFError, ConnectionResetError):
            how = _how_it_ended(process)
            if not making:
                return _failed(planned, f"the cell's process ended {how} before it had a result")
            step = making[-1]
            why = f"the process that made its {step.kind}, {step.label}, ended {how}"
            workshop.memory[_died(step)] = why
            return _failed(planned, why)


def _shared(planned: Planned) -> list[Step]:
    """What the cell stands on, in an order in which it can be made."""
    return [step for step in steps_of([planned]) if step.kind != "cell"]


def _died(step: Step) -> tuple[str, str]:
    """Where it is remembered that making it takes the process with it."""
    return ("died", step.key)


@contextmanager
def _started(
    planned: Planned, workshop: Workshop, settings: Settings
) -> Iterator[tuple[SpawnProcess, Connection]]:
    """The cell's process and our end of the pipe to it; afterwards nothing of it is left."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    resource_tracker.ensure_running()  # it outlives the cell, and must not bear its mark
    given = (theirs, planned, workshop, settings, torch.get_num_threads())
    process = context.Process(target=_cell, args=given, name="rbg cell")
    with processes.marked() as mark:
        process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        if process.pid is not None:
            processes.end_tree(process.pid, mark)
        process.join()
        process.close()
        ours.close()


def _answer(
    planned: Planned, ours: Connection, process: SpawnProcess, seconds: float, making: list[Step]
) -> Result:
    """What the process says, or that it said nothing in time; what it is making meanwhile is in `making`.

    Raises EOFError where it died.
    """
    shared = _shared(planned)
    with _Display() as display:
        while (message := _receive(ours, process, max(seconds, SILENT) if making else None))[0] != READY:
            kind, *told = message
            if kind == FATAL:
                raise Fatal(*told)
            if kind == MAKING:
                making.append(shared[told[0]])
            else:
                display.show(kind, *told)
    making.clear()
    if not _waited(planned, ours, process, seconds):
        return _failed(planned, f"killed after {seconds:g} s, the limit of --cell-timeout")
    kind, text = _receive(ours, process)
    if kind == FATAL:
        raise Fatal(text)
    return Result.model_validate_json(text)


def _waited(planned: Planned, ours: Connection, process: SpawnProcess, seconds: float) -> bool:
    """Wait for an answer, or for its end; False where none came in time."""
    cell, started, shown = planned.cell, time.monotonic(), 0.0
    with progress.task(f"apart: {cell.attack.name} on {cell.defense.name}", seconds) as advance:
        while True:
            passed = time.monotonic() - started
            advance(passed - shown)
            shown = passed
            if ours.poll(max(min(TICK, seconds - passed), 0)) or process.exitcode is not None:
                return True
            if passed >= seconds:
                return False


def _failed(planned: Planned, reason: str) -> Result:
    cell = planned.cell
    return Result(
        cell=cell, fingerprint=cell.fingerprint, status="failed", reason=reason, control=planned.control
    )


def _how_it_ended(process: SpawnProcess) -> str:
    process.join()
    code = process.exitcode or 0
    return f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with exit code {code}"


class _Display:
    """What the process reports of its trainings, on the display of this one."""

    def __init__(self) -> None:
        self.tasks: dict[int, tuple[AbstractContextManager[Advance], Advance]] = {}

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *_: object) -> None:
        for at in list(self.tasks):
            self.show(ENDED, at)

    def show(self, kind: str, at: int, *told: Any) -> None:
        """Begin, advance or end the process's task of this number."""
        if kind == BEGUN:
            task = progress.task(*told)
            self.tasks[at] = task, task.__enter__()
        elif kind == ADVANCED:
            self.tasks[at][1](*told)
        else:
            self.tasks.pop(at)[0].__exit__(None, None, None)


class _Reports:
    """A display in the cell's process, which tells the other one at most every TICK seconds."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.count = connection, 0

    @contextmanager
    def task(self, description: str, total: float) -> Iterator[Advance]:
        """Report a task for as long as the block lasts."""
        self.count += 1
        at, made, told = self.count, 0.0, time.monotonic()

        def advance(amount: float) -> None:
            nonlocal made, told
            made += amount
            if time.monotonic() - told > TICK:
                _send(self.connection, ADVANCED, at, made)
                made, told = 0.0, time.monotonic()

        _send(self.connection, BEGUN, at, description, total)
        try:
            yield advance
        finally:
            _send(self.connection, ENDED, at)


def _send(connection: Connection, *message: Any) -> None:
    connection.send_bytes(json.dumps(message).encode())


class _Silent(Exception):
    """What cells share shows no progress."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def _receive(connection: Connection, process: SpawnProcess, seconds: float | None = None) -> Any:
    """The next message. Raises EOFError where the process ended, even if a copy of it still holds the pipe.

    Raises _Silent where none came in so many seconds.
    """
    started = time.monotonic()
    while not connection.poll(TICK):
        if process.exitcode is not None and not connection.poll(0):
            raise EOFError
        if seconds is not None and time.monotonic() - started > seconds:
            raise _Silent(seconds)
    return json.loads(connection.recv_bytes())


def _cell(theirs: Connection, planned: Planned, workshop: Workshop, settings: Settings, threads: int) -> None:
    """The process: make or load what is shared, say so, run the cell, give the result, and wait for the end."""
    os.setsid()  # Ctrl-C is for the parent, which kills the whole group
    processes.adopt_orphans()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    trial.are_not_needed()
    with stopping.listening():
        try:
            _make_shared(planned, workshop, settings, theirs)
            _send(theirs, READY)
            _send(theirs, DONE, evaluate_cell(planned, workshop, settings).model_dump_json())
        except Fatal as error:
            _send(theirs, FATAL, str(error))
        except stopping.Stopped as stopped:  # somebody ended this process alone
            signal.signal(stopped.number, signal.SIG_DFL)
            os.kill(os.getpid(), stopped.number)
    with contextlib.suppress(EOFError, OSError):
        theirs.recv_bytes()  # never comes: whoever reads the result ends this process and all below it


def _make_shared(planned: Planned, workshop: Workshop, settings: Settings, theirs: Connection) -> None:
    """Make what the cell stands on. Where that fails the cell fails before its attack starts."""
    try:
        with progress.reporting_to(_Reports(theirs)), stopping.PluginCall():
            workshop.dataset(planned.cell.dataset)  # whose reading may be long and shows no progress
            for at, step in enumerate(_shared(planned)):
                _send(theirs, MAKING, at)
                train(step, workshop, settings)
    except BaseException as error:  # the workshop remembers it, and the cell will record it
        stopping.pass_on(error)


def _end_with_parent() -> None:
    """A parent that was killed itself leaves no cell behind, and nothing that it started."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        processes.end_descendants()
        os._exit(1)

"""A cell in a process of its own, which is killed when its time is up: nothing inside a hung attack can stop it.

The process is a fresh one that trains nothing: it takes everything shared from the store, says that it is ready, and
from then on its time counts. The result comes back as JSON; nothing is unpickled from disk.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from robustbench_gan import progress, stopping
from robustbench_gan.cell_run import Settings
from robustbench_gan.errors import Fatal
from robustbench_gan.evaluate import evaluate_cell
from robustbench_gan.matrix import Planned
from robustbench_gan.places import short
from robustbench_gan.plan import steps_of, train
from robustbench_gan.record import Result
from robustbench_gan.workshop import Workshop

TICK = 0.5  # seconds between two looks at the clock, for the display alone
READY, DONE, FATAL = "ready", "done", "fatal"


def evaluate_apart(planned: Planned, workshop: Workshop, settings: Settings, *, seconds: float) -> Result:
    """`evaluate_cell` in a process of its own: the same result, or `failed` where it took longer than `seconds`.

    What cells share is made here, before, and does not count; nor does the start of the process. A process that dies,
    of a lack of memory or a fault in compiled code, fails its cell alone. Raises as `evaluate_cell` does.
    """
    if planned.reason or not _shared_is_there(planned, workshop):
        return evaluate_cell(planned, workshop, settings)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    # without what is in memory: the store has all of it
    plain = replace(workshop, store=replace(workshop.store, used={}), memory={})
    given = (theirs, planned, plain, settings, torch.get_num_threads())
    process = context.Process(target=_cell, args=given, name="rbg cell")
    process.start()
    theirs.close()
    try:
        return _answer(planned, ours, process, seconds)
    finally:
        _end(process)
        ours.close()


def _shared_is_there(planned: Planned, workshop: Workshop) -> bool:
    """Make what the cell stands on. Where that fails the cell fails before its attack starts, so no clock is needed."""
    try:
        for step in steps_of([planned]):
            if step.kind != "cell":
                train(step, workshop)
    except BaseException as error:  # the workshop remembers it, and the cell will record it
        stopping.pass_on(error)
        return False
    return True


def _answer(planned: Planned, ours: Connection, process: SpawnProcess, seconds: float) -> Result:
    """What the process says, or that it said nothing in time."""
    try:
        kind, text = _receive(ours)
        if kind == READY and not _waited(planned, ours, seconds):
            return _failed(planned, f"killed after {seconds:g} s, the limit of --cell-timeout")
        if kind == READY:
            kind, text = _receive(ours)
    except (EOFError, ConnectionResetError):
        process.join()
        code = process.exitcode or 0
        how = f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with exit code {code}"
        return _failed(planned, f"the cell's process ended {how} before it had a result")
    if kind == FATAL:
        raise Fatal(text)
    return Result.model_validate_json(text)


def _waited(planned: Planned, ours: Connection, seconds: float) -> bool:
    """Wait for an answer; False where none came in time."""
    cell, started, shown = planned.cell, time.monotonic(), 0.0
    with progress.task(f"apart: {short(cell.attack)} on {short(cell.defense)}", seconds) as advance:
        while True:
            passed = time.monotonic() - started
            advance(passed - shown)
            shown = passed
            if ours.poll(max(min(TICK, seconds - passed), 0)):
                return True
            if passed >= seconds:
                return False


def _failed(planned: Planned, reason: str) -> Result:
    cell = planned.cell
    return Result(
        cell=cell, fingerprint=cell.fingerprint, status="failed", reason=reason, control=planned.control
    )


def _end(process: SpawnProcess) -> None:
    """Kill the process and all that it has started."""
    if process.pid is not None and process.is_alive():
        with contextlib.suppress(ProcessLookupError):  # killed before it had a group of its own
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    process.join()
    process.close()


def _send(connection: Connection, kind: str, text: str = "") -> None:
    connection.send_bytes(json.dumps([kind, text]).encode())


def _receive(connection: Connection) -> Any:
    return json.loads(connection.recv_bytes())


def _cell(theirs: Connection, planned: Planned, workshop: Workshop, settings: Settings, threads: int) -> None:
    """The process: load what is shared, say so, run the cell, give the result."""
    os.setsid()  # Ctrl-C is for the parent, which kills the whole group
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    with stopping.listening():
        try:
            _shared_is_there(planned, workshop)
            _send(theirs, READY)
            _send(theirs, DONE, evaluate_cell(planned, workshop, settings).model_dump_json())
        except Fatal as error:
            _send(theirs, FATAL, str(error))


def _end_with_parent() -> None:
    """A parent that was killed itself leaves no cell behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

"""How a command ends: the exit codes, and what becomes of errors and signals. No torch."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import click

from robustbench_gan.base import stopping, streams
from robustbench_gan.base.errors import UsageError, describe, told

DONE, SOME_FAILED, BAD_USAGE = 0, 1, 2  # and 128 + the number of the signal that ended a command
P = ParamSpec("P")


def user_errors(command: Callable[P, int | None]) -> Callable[P, None]:
    """Turn errors a user can mend into one line and their exit code, signals into 128 + their number.

    What the command returns is its exit code: it does not exit itself, so that an exit is always a plugin's. A bug
    keeps its traceback.
    """

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        before = threading.enumerate()
        with streams.forgiving(), stopping.listening():
            code = _exit_code(command, *args, **kwargs)
        stopping.abandon(before, code)
        if code:
            sys.exit(code)

    return wrapped


def _exit_code(command: Callable[P, int | None], *args: P.args, **kwargs: P.kwargs) -> int:
    try:
        with stopping.PluginCall():
            code = command(*args, **kwargs) or DONE
        sys.stdout.flush()
        return code
    except UsageError as error:
        click.echo(f"rbg: {told(str(error))}", err=True)
        return error.code
    except KeyboardInterrupt as interrupt:
        if not stopping.is_users(interrupt):
            return _left(interrupt)
        stopping.let_go()
        number = getattr(interrupt, "number", signal.SIGINT)
        click.echo(
            f"rbg: {stopping.ended_by(number)}. What was finished is kept; the same command goes on from there.",
            err=True,
        )
        return int(128 + number)
    except SystemExit as left:
        return _left(left)


def _left(error: BaseException) -> int:
    """Say where a plugin tried to end the command."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    click.echo(
        f"rbg: {told(frame.filename)}:{frame.lineno} raised {told(describe(error))}: a plugin must not end the "
        "command. Mend or uninstall it.",
        err=True,
    )
    return SOME_FAILED

"""The errors a user can mend: they end a command with one line and exit code 2, never with a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Bad input: the message names the value, what was expected and how to mend it."""


class NotApplicable(Exception):
    """Raised by an attack or a threat model when a combination means nothing; the message is the reason."""


class DisconnectedGradient(RuntimeError):
    """Autograd found no path from the loss to the input: a broken attack, never a zero gradient."""

    flag = "disconnected-gradient"


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """Build the error for an unknown name: it lists the real ones and suggests the nearest."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(names) if names else "none"
    return UsageError(f"unknown {what} {name!r}.{hint} Known: {listed}.")

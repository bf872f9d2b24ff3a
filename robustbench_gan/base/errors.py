"""The errors a user can mend: they end a command with one line and exit code 2, never with a traceback."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable


class UsageError(ValueError):
    """Bad input: the message names the value, what was expected and how to mend it. `code` is the exit code."""

    code = 2


class Fatal(UsageError):
    """Bad input that ends the command wherever it is found: a full disk, a damaged file, weights that do not fit.

    Any other UsageError that is raised while a cell is at work is taken for the plugin's own, and fails that cell.
    """


class NotApplicable(Exception):
    """Raised by an attack or a threat model when a combination means nothing; the message is the reason."""


class NotANumber(RuntimeError):
    """A classifier or a defended system answered with no number: it is neither right nor has it survived anything."""

    flag = "not-a-number"


class DisconnectedGradient(RuntimeError):
    """Autograd found no path from the loss to the input: a broken attack, never a zero gradient."""

    flag = "disconnected-gradient"


class NoBackward(RuntimeError):
    """Autograd fails on its way back through the system: a broken attack, never a zero gradient."""


LONGEST = 2000  # characters of an error's text that are kept
_ADDRESS = re.compile(r" (?:object )?at 0x[0-9a-fA-F]+")
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127) if chr(code) not in "\t\n"}


def describe(error: BaseException) -> str:
    """What a stranger's exception is and says, `ValueError: no such thing`, for records and messages. Never raises.

    No text of it can be trusted to be short, encodable or there at all: see `said`.
    """
    try:
        name = str.__str__(type.__dict__["__name__"].__get__(type(error)))
    except Exception:
        name = "Exception"
    text = said(error)
    return f"{plain(name)}: {text}" if text else plain(name)


def said(error: BaseException) -> str:
    """The text of a stranger's exception, at most so long and always encodable. Never raises."""
    try:
        return plain(str(error))
    except BaseException:  # it may exit as well; a Ctrl-C that arrives meanwhile is noted by its handler
        return "(its text cannot be made: __str__ raises)"


def described(error: BaseException) -> str:
    """`describe` on one line."""
    return " ".join(describe(error).split())


def plain(text: str) -> str:
    """A stranger's text, cut where it is too long, without control characters and halves of surrogate pairs.

    Nor has it the addresses of objects in memory, which are others every time.
    """
    kept = str.encode(str.__getitem__(text, slice(LONGEST)), "utf-8", "backslashreplace").decode()
    kept = _ADDRESS.sub("", kept)
    cut = str.__len__(text) - LONGEST
    return kept.translate(_CONTROLS) + (f" ... ({cut} more characters)" if cut > 0 else "")


def one_line(text: str, limit: int | None = None) -> str:
    """A text without newlines, control or invisible characters, cut to `limit` characters where given.

    What is printed or written of names, reasons and messages goes through this: no terminal obeys it, and no line of it
    can be mistaken for another.
    """
    start = text if limit is None else text[: 4 * limit]
    visible = "".join(" " if unicodedata.category(c)[0] == "C" else c for c in start)
    line = " ".join(visible.split())
    if limit is None or (len(line) <= limit and len(start) == len(text)):
        return line
    return line[: limit - 1].rstrip() + "…"


def told(text: str) -> str:
    """`one_line` of a message for a terminal, which says how much of a huge one was left out."""
    line = one_line(text, LONGEST)
    return line if len(text) <= 4 * LONGEST else f"{line} ({len(text):,} characters in all)"


def unknown(what: str, name: str, known: Iterable[str]) -> UsageError:
    """Build the error for an unknown name: it lists the real ones and suggests the nearest."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1) or [n for n in names if n.lower() == name.lower()]
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(names) if names else "none"
    return UsageError(f"unknown {what} {name!r}.{hint} Known: {listed}.")

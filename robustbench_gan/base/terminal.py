"""What is printed for people: text is text, never markup, and no terminal obeys it. No torch."""

from __future__ import annotations

import re
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from robustbench_gan.base.errors import told


class Plain(Console):
    """A console that prints each string as one line of literal text, whoever it came from, and tables as they are."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's, but for strings and texts."""
        style = options.pop("style", None)
        shown = [self._literal(one, style) for one in objects]
        super().print(*shown, **options)

    @staticmethod
    def _literal(one: Any, style: Any) -> Any:
        if isinstance(one, str):
            indent = len(one) - len(one.lstrip(" "))
            return Text(" " * indent + told(one), style=style or "")
        if isinstance(one, Text) and told(one.plain) != one.plain:
            visible = "".join(c if c.isprintable() else " " for c in one.plain)
            one.plain = visible if len(visible) < 10_000 else told(visible)
        return one


def console_for(*, stderr: bool) -> Plain:
    """A console as wide as the terminal; into a file or pipe wide enough that no row is broken."""
    console = Plain(stderr=stderr)
    return console if console.is_terminal else Plain(stderr=stderr, width=200)


def folded(text: str, width: int) -> list[str]:
    """A line of text on lines of so many characters, broken at spaces and after commas, elsewhere where it must be."""
    lines = [""]
    for piece in re.findall(r"[^ ,]*[ ,]+|[^ ,]+", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        while len(piece.rstrip()) > width:
            lines[-1:], piece = [piece[:width], ""], piece[width:]
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def say(line: str) -> None:
    """One line on standard error."""
    click.echo(f"rbg: {told(line)}", err=True)

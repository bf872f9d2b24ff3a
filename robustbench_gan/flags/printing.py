"""The catalogue of red flags, printed for people and as JSON. No torch."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.table import Table
from rich.text import Text

from robustbench_gan.base.terminal import console_for
from robustbench_gan.flags.catalogue import CATALOGUE, explained, known
from robustbench_gan.flags.known import COMPUTED, Known


def print_flags(as_json: bool) -> None:
    """Every flag of the catalogue: severity, where it is computed, one line."""
    if as_json:
        click.echo(json.dumps([_plain(entry) for entry in CATALOGUE.values()], indent=1))
        return
    table = Table("flag", "severity", "where", "what was seen")
    for entry in CATALOGUE.values():
        severities = " or ".join(entry.severities)
        table.add_row(*map(Text, (entry.id, severities, COMPUTED[entry.where], entry.summary)))
    console_for(stderr=False).print(table)


def print_flag(name: str, as_json: bool) -> None:
    """One flag in full. Raises UsageError with the nearest names for an unknown one."""
    if as_json:
        click.echo(json.dumps(_plain(known(name)), indent=1))
        return
    console = console_for(stderr=False)
    first, *rest = explained(name)
    console.print(Text(first, style="bold"))
    for line in rest:
        console.print(Text(line))


def _plain(entry: Known) -> dict[str, object]:
    return {**asdict(entry), "computed": COMPUTED[entry.where]}

"""`rbg cache`: the store of trained artifacts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from robustbench_gan.cli.exits import user_errors
from robustbench_gan.cli.options import json_option

if TYPE_CHECKING:
    from robustbench_gan.training.store import Store


@click.group("cache")
def command() -> None:
    """Look after the store of trained artifacts."""


@command.command("list")
@json_option("Print a JSON array.")
@user_errors
def cache_list(as_json: bool) -> None:
    """List stored artifacts with their size and facts."""
    from robustbench_gan.training.store import Store

    print_cache(Store(), as_json)


@command.command("clear")
@click.confirmation_option(prompt="Delete every trained artifact?")
@user_errors
def cache_clear() -> None:
    """Delete every stored artifact and what is kept of image folders; results are not touched."""
    from robustbench_gan.data import decoded
    from robustbench_gan.training.store import Store

    store = Store()
    decoded.clear()
    click.echo(f"deleted {store.clear()} artifacts from {store.root}")


def print_cache(store: Store, as_json: bool) -> None:
    """Every stored artifact: key, size and the facts of its making."""
    from rich.table import Table
    from rich.text import Text

    from robustbench_gan.base.terminal import console_for
    from robustbench_gan.training.store import read_header

    found = []
    for path in store:
        try:
            info = json.loads(read_header(path).get("info", "{}"))
        except Exception as error:  # a corrupt file is listed as such
            info = {"unreadable": str(error)}
        found.append({"key": path.stem, "kib": round(path.stat().st_size / 1024), "info": info})
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    console = console_for(stderr=False)
    console.print(f"{len(found)} artifacts in {store.root}")
    table = Table("key", "KiB", "facts")
    for item in found:
        facts = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in item["info"].items()
        )
        table.add_row(Text(item["key"]), str(item["kib"]), Text(facts))
    if found:
        console.print(table)

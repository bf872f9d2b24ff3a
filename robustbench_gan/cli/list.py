"""`rbg list`: what is installed."""

from __future__ import annotations

import json
from typing import Any

import click

from robustbench_gan.base.errors import unknown
from robustbench_gan.cli.exits import user_errors
from robustbench_gan.cli.options import json_option


@click.command("list")
@click.argument("what", type=click.Choice(["attacks", "defenses", "models", "datasets", "threats"]))
@click.argument("name", required=False)
@json_option("Print a JSON array.")
@click.option(
    "--names", is_flag=True, help="Only the names, without controls and without importing any plugin."
)
@click.option("--all", "everything", is_flag=True, help="Controls as well: faults on purpose.")
@user_errors
def command(what: str, name: str | None, as_json: bool, names: bool, everything: bool) -> None:
    """Show what is installed, a line a name; with NAME what it does, its parameters and defaults, who brought it."""
    from robustbench_gan.cli.installed import catalogue
    from robustbench_gan.nouns import registry

    if names:
        listed = [e["name"] for e in catalogue(what)] if what == "threats" else registry.names(what)
        click.echo(json.dumps(listed) if as_json else "\n".join(listed))
        return
    entries = catalogue(what)
    if name is not None:
        entries = [e for e in entries if e["name"] == name]
        if not entries:
            raise unknown(
                what[:-1], name, [e["name"] for e in catalogue(what) if not registry.is_control(e["name"])]
            )
    if as_json:
        click.echo(json.dumps(entries, indent=1))
    elif name is not None:
        print_entry(what, entries[0])
    else:
        print_catalogue([e for e in entries if everything or not registry.is_control(e["name"])])


def print_catalogue(found: list[dict[str, Any]]) -> None:
    """One line a name, as wide as the terminal at most; what a plugin's error says is in full."""
    from rich.text import Text

    from robustbench_gan.base.terminal import Plain

    console = Plain()
    width = max((len(entry["name"]) for entry in found), default=0) + 2
    for entry in found:
        line = Text(entry["name"].ljust(width), style="bold")
        if entry["error"]:
            console.print(line.append(entry["error"], style="red"))
            continue
        line.append(entry["summary"], style="not bold")
        line.truncate(console.width, overflow="ellipsis")
        console.print(line, no_wrap=True)


def print_entry(group: str, entry: dict[str, Any]) -> None:
    """All that is known of one name: what it is, its parameters with their defaults, who brought it."""
    from rich.text import Text

    from robustbench_gan.base.terminal import Plain

    console = Plain()
    console.print(entry["name"], style="bold")
    if entry["error"]:
        console.print(entry["error"], style="red")
        return
    for paragraph in entry["text"]:
        console.print(Text(paragraph))
    rows = [f"  {name}={value}" for name, value in entry["parameters"].items()]
    for line in ["", "parameters:", *(rows or ["  none"])]:
        console.print(line)
    said = {True: "does not matter", False: "matters"}
    if "scale_free" in entry:
        console.print(f"scale of the logits: {said[entry['scale_free']]}")
    console.print(f"from: {entry['distribution']} {entry['version']}")
    console.print(f"written: {_written(group, entry)}")


def _written(group: str, entry: dict[str, Any]) -> str:
    """How it is asked for on the command line, with its first parameter."""
    option = {"attacks": "--attack", "defenses": "--defense", "models": "--classifier", "datasets": "--dataset",
              "threats": "--threat"}[group]  # fmt: skip
    first = next(iter(entry["parameters"].items()), None)
    given = f":{first[0]}={first[1]}" if first and first[1] not in ("", None) else ""
    return f"rbg evaluate {option} {entry['name']}{given}"

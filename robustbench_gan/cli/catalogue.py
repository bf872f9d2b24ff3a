"""What is installed, with its parameters: the content of `rbg list` and of the generated documentation."""

from __future__ import annotations

import inspect
from typing import Any

from robustbench_gan.base.errors import UsageError
from robustbench_gan.nouns import registry


def catalogue(group: str) -> list[dict[str, Any]]:
    """Every entry of a group: name, summary, parameters with defaults, distribution, version, error.

    Attacks say whether they are `scale_free` as well.
    A plugin that fails to import is listed with its error; the others are unharmed.
    """
    if group == "threats":
        from robustbench_gan import __version__
        from robustbench_gan.contracts.threat import THREATS

        return [_described(name, make, "robustbench-gan", __version__) for name, make in THREATS.items()]
    found = []
    for name, entry in registry.entries(group).items():
        try:
            found.append(_described(name, entry.load(), entry.distribution, entry.version))
        except UsageError as error:
            found.append({"name": name, "summary": "", "parameters": {}, "distribution": entry.distribution,
                          "version": entry.version, "error": str(error)})  # fmt: skip
    return found


def _described(name: str, target: Any, distribution: str, version: str) -> dict[str, Any]:
    parameters = {p.name: _shown(p.default, p.required) for p in registry.parameters(target).values()}
    scale_free = getattr(getattr(target, "info", None), "scale_free", None)  # an attack's alone
    return {
        "name": name,
        "summary": registry.summary(target),
        "text": _paragraphs(target),
        "parameters": parameters,
        "distribution": distribution,
        "version": version,
        "error": None,
        **({} if scale_free is None else {"scale_free": scale_free}),
    }


def _paragraphs(target: Any) -> list[str]:
    """A docstring, each of its paragraphs on one line."""
    return [" ".join(p.split()) for p in (inspect.getdoc(target) or "").split("\n\n")]


def _shown(default: Any, required: bool) -> Any:
    if required:
        return "(required)"
    return default if default is None or isinstance(default, bool | int | float | str) else str(default)


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

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

"""The reference of what is registered, and a page an attack and a defense."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from docs_markdown import page, table

from robustbench_gan.cli.installed import catalogue
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.contracts.threat import THREATS
from robustbench_gan.leaderboard.flat import cost, robust_interval
from robustbench_gan.leaderboard.labels import Labels, number, radius
from robustbench_gan.leaderboard.questions import order
from robustbench_gan.models.schedule import schedule_of
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.record import Result

OURS = "robustbench-gan"
PUBLIC = tuple(
    f"robustbench_gan{place}"
    for place in ("", ".contracts", ".training", ".seeds", ".testing", ".leaderboard")
)
HEADINGS = {
    "attacks": "Attacks",
    "defenses": "Defenses",
    "models": "Models",
    "datasets": "Data sets",
    "threats": "Threat models",
}


def reference() -> str:
    """Every built-in attack, defense, model, data set and threat model, and the public names of Python."""
    blocks = [
        "What comes with the package. `rbg list` shows the same, and what other packages have registered. A "
        "parameter is written `name:key=value,...`, as in `pgd:steps=100,step=0.05`."
    ]
    for group, heading in HEADINGS.items():
        blocks.append(f"## {heading}")
        for name, target in built_ins(group):
            blocks += [f"### {name}", *described(target), facts(group, target), parameters(target)]
    return page("Reference", *blocks, *public_names())


def public_names() -> Iterator[str]:
    """What a program or a plugin may import, by its place, with what each is for."""
    yield "## Python"
    yield (
        "What a program or a plugin may import; everything else may move without notice. Names of version 0.1 that the "
        "guide to plugins gave work in 0.2, with a warning that says where they are now."
    )
    for place in PUBLIC:
        module = importlib.import_module(place)
        yield f"### {place}"
        yield from described(module)[:1]
        rows = [[f"`{name}`", said_of(getattr(module, name))] for name in module.__all__]
        yield table(["name", "what it is for"], rows)


def said_of(found: Any) -> str:
    """What a public name stands for: the first line of its docstring, or the value."""
    if isinstance(found, int | float | str):
        return f"`{found!r}`"
    if get_origin(found) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(found))
    written = inspect.isroutine(found) or inspect.isclass(found) or inspect.ismodule(found)
    if written and get_origin(found) is None:
        return described(found)[0].replace("|", "\\|")
    return "A type, for annotations."


def entries(results: list[Result]) -> dict[str, str]:
    """A page an attack and a defense, with what it did on the published leaderboard, and a list of each kind."""
    pages = {}
    for group in ("attacks", "defenses"):
        listed = []
        for name, target in built_ins(group):
            option = f"--{group[:-1]} {name}"
            asked = f"```sh\nrbg evaluate {option}\n```"
            blocks = [
                *described(target),
                facts(group, target),
                parameters(target),
                asked,
                on_board(group, name, results),
            ]
            pages[f"docs/{group}/{name}.md"] = page(name, *blocks)
            listed.append(f"- [{name}]({name}.md): {described(target)[0]}")
        pages[f"docs/{group}/index.md"] = page(HEADINGS[group], "\n".join(listed))
    return pages


def on_board(group: str, name: str, results: list[Result]) -> str:
    """What stands of one attack or defense on the published leaderboard, and what it cost; empty where nothing does."""
    labels, other = Labels.among(results), {"attacks": "defense", "defenses": "attack"}[group]
    found = [
        r for r in sorted(results, key=order)
        if r.counts and getattr(r.cell, group[:-1]).name == name
    ]  # fmt: skip
    rows = []
    for r in found:
        spent = cost(r)
        rows.append(
            [
                labels("dataset", r.cell.dataset), labels(other, getattr(r.cell, other)), r.cell.threat_name,
                radius(r.cell.norm, r.cell.eps), str(robust_interval(r, r.cell.eps)), str(r.cell.samples),
                *(number(spent[f"{way}_passes_per_image"]) for way in ("forward", "backward")),
            ]
        )  # fmt: skip
    header = ["data", other, "threat model", "budget", "robust", "n", "passes forward", "back"]
    return "## On the published leaderboard\n\n" + table(header, rows) if rows else ""


def built_ins(group: str) -> Iterator[tuple[str, Any]]:
    """Names and objects of a group that this distribution brings, controls left out, in the order of `rbg list`."""
    for item in catalogue(group):
        if item["distribution"] == OURS and not registry.is_control(item["name"]):
            if item["error"]:
                raise SystemExit(f"generate_docs: {item['error']}")
            yield (
                item["name"],
                THREATS[item["name"]] if group == "threats" else registry.load(group, item["name"]),
            )


def described(target: Any) -> list[str]:
    """The paragraphs of a docstring, each on one line, up to a section such as `Raises:`."""
    paragraphs = [" ".join(p.split()) for p in (inspect.getdoc(target) or "").split("\n\n")]
    sections = [n for n, p in enumerate(paragraphs) if p.startswith(("Raises:", "Args:", "Returns:"))]
    return paragraphs[: sections[0]] if sections else paragraphs


def facts(group: str, target: Any) -> str:
    """What is known of an object without running it."""
    lines = {"attacks": attack_facts, "defenses": defense_facts, "models": model_facts}
    return "\n".join(f"- {line}" for line in lines[group](target)) if group in lines else ""


def attack_facts(function: Any) -> list[str]:
    """Norms, what it needs, what it can do, and its paper."""
    info = info_of(function)
    lines = [f"Norms: {', '.join(info.norms)}. Needs: {info.needs}."]
    lines += ["Finds the smallest perturbation: one run serves every budget."] if info.minimal else []
    lines += [] if info.targeted else ["Has no targeted form."]
    lines += [f"Defined by the gradient `{info.gradient}`."] if info.gradient else []
    lines += ["A control: that it fails proves nothing."] if info.control else []
    lines += ["Scale-free: neither the logits' size nor masked classes matter."] if info.scale_free else []
    return [*lines, f"Paper: {info.paper}."]


def defense_facts(kind: Any) -> list[str]:
    """What an attacker has to reckon with."""
    said = {
        "purifies": "Changes the input before the classifier sees it.",
        "randomised": "Its answer depends on a seed.",
        "unrolls": "Iterates: `gradient=truncated` applies.",
    }
    return [text for flag, text in said.items() if getattr(kind, flag)]


def model_facts(factory: Any) -> list[str]:
    """How it is trained."""
    s = schedule_of(factory)
    cycle = ", one cycle" if s.one_cycle else ""
    return [f"Trained with Adam: {s.epochs} epochs, batches of {s.batch_size}, rate {s.lr:g}{cycle}."]


def parameters(target: Any) -> str:
    """The parameters and their defaults; empty where there are none."""
    found = registry.parameters(target).values()
    rows = [
        [f"`{p.name}`", "(required)" if p.required else f"`{spelled(p.default)}`", ", ".join(p.choices)]
        for p in found
    ]
    return table(["parameter", "default", "choices"], rows) if rows else ""


def spelled(value: Any) -> str:
    """A default as it would be typed."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value) or "''"

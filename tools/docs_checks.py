"""The pages of red flags, planted faults, statuses, records, commands and presets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from docs_markdown import code_list, page, table
from pydantic.json_schema import GenerateJsonSchema

from robustbench_gan.audit.controls import ATTACKS, CONTROLS, HONEST, SYSTEMS, Control
from robustbench_gan.cli import main as rbg
from robustbench_gan.contracts.threat import THREATS
from robustbench_gan.engine.matrix import preset_text, presets
from robustbench_gan.flags import BY_CONSTRUCTION, CATALOGUE, COMPUTED
from robustbench_gan.flags import thresholds as at
from robustbench_gan.nouns.record import Result
from robustbench_gan.results.stored import SEALS

RUNS = "run"  # what the expected statuses say of a combination that can be run
HELP_WIDTH = 100


def red_flags() -> str:
    """The catalogue of red flags, what needs none, and how comparisons are corrected."""
    rows = [
        [f"[{k.id}](#{k.id})", k.pitfall, " or ".join(k.severities), COMPUTED[k.where], k.summary]
        for k in CATALOGUE.values()
    ]
    blocks = [
        "Signs that a number does not mean what it says. Each stands for a known pitfall of evaluating robustness, "
        "P1 to P36 by a numbering of our own; what each is stands below. An `invalid` flag of a cell makes its result "
        "`suspect`, which never ranks; one across cells marks "
        "with ‡ every headline that rests on the cell, unless an attack beyond doubt goes below what contradicts it. "
        "A `warning` asks for a look, a `note` only informs. Every "
        "record holds the evidence; `rbg explain FLAG` prints what stands here; `--strict` makes `rbg evaluate` and "
        "`rbg leaderboard build` exit with 1 where an `invalid` flag was raised. That none was raised proves nothing.",
        table(["flag", "pitfall", "severity", "where", "what was seen"], rows),
        "## Comparisons across cells",
        "Two cells are compared on the images that both judged, by an exact one-sided sign test over images (McNemar's "
        "test where each image is plainly right or wrong; with several judge seeds the mean of an image's outcomes is "
        "compared). All comparisons of one run are one family, and Holm's correction keeps the chance of any false "
        f"alarm among them at {at.LEVEL:g}; a difference of at most {at.MARGIN:g} in accuracy is never flagged. A "
        "suspect number can be accused, but only one that counts is a witness. So more cells in a run make each "
        "comparison harder to fail.",
        "## Impossible by construction",
        "\n".join(f"- {pitfall}: {why}." for pitfall, why in BY_CONSTRUCTION.items()),
    ]
    for k in CATALOGUE.values():
        facts = f"{k.pitfall}; {' or '.join(k.severities)}; {COMPUTED[k.where]}."
        blocks += [f"## {k.id}", f"*{facts}*", f"Raised: {k.rule}", f"Applies to: {k.applies}", k.explanation]
    return page("Red flags", *blocks)


def controls(source: Path) -> str:
    """Planted faults and honest systems, what is meant for each, and what the last self-test found."""
    if not source.is_file():
        raise SystemExit(f"generate_docs: {source.name} is missing: run python tools/self_test.py.")
    rows = json.loads(source.read_text(encoding="utf-8"))
    seeds = sorted({row["seed"] for row in rows})
    right, counted = sum(row["caught"] for row in rows), len(rows)
    missing = len(seeds) * len(CONTROLS) - counted
    unmeasured = f", {missing} not measured yet" if missing else ""
    blocks = [
        "Checks that were never seen to fire prove nothing. So faults are planted on purpose, each with the flag or "
        "status meant for it written beside it, and honest systems that deserve none, in "
        "`robustbench_gan/audit/controls.py`. `rbg audit --self-test` runs all of them as ordinary cells, or where a "
        "flag is an audit's through the checks that look for it, and exits with 1 "
        "if a fault is not caught by what is meant for it, or an honest system is accused of anything `invalid`. "
        "The faulty ones are registered under names that begin with `control-`; they are in no preset and no table of "
        "statuses, and `rbg list` shows them.",
        f"Below is what `python tools/self_test.py` found over the seeds {', '.join(map(str, seeds))}, each that of "
        f"trainings, attacks and judge alike: {right} of {counted} as meant{unmeasured}. Data: `control-digits`, "
        "the first images of MNIST; classifier: `small-cnn`. That these faults are seen says nothing of a fault that "
        "is not here.",
    ]
    for heading, listed in (
        ("Faulty systems", SYSTEMS),
        ("Faulty attacks", ATTACKS),
        ("Honest systems", HONEST),
    ):
        header = [
            "control",
            "what it is",
            "defense",
            "attacks",
            "threat model",
            "meant for it",
            "found by",
            "raised",
            "as meant",
        ]
        blocks += [f"## {heading}", table(header, [control_row(c, rows) for c in listed])]
    return page("Controls", *blocks)


def control_row(control: Control, rows: list[dict[str, Any]]) -> list[str]:
    """One control with what was found under every seed."""
    own = [row for row in rows if row["control"] == control.name]
    raised = sorted({flag for row in own for flag in row["raised"]})
    statuses = sorted({status for row in own for status in row["statuses"]})
    found = "; ".join([*statuses, *raised]) if own else "not measured"
    audited = control.found_by == "audit"
    attacks, threat = ("", "") if audited else (code_list(control.attacks), f"`{control.threat}`")
    looked = f"audit: {code_list(control.checks)}" if audited else "cell"
    return [
        control.name, control.what, f"`{control.defense}`", attacks, threat, control.meant, looked, found,
        f"{sum(row['caught'] for row in own)} of {len(own)}" if own else "",
    ]  # fmt: skip


def statuses(source: Path) -> str:
    """Which combinations can be run, from the table that the tests hold the planner to."""
    if not source.is_file():
        raise SystemExit(f"generate_docs: {source.name} is missing; docs/statuses.md comes from it.")
    return page("What can be run", *status_blocks(json.loads(source.read_text(encoding="utf-8"))))


def status_blocks(expected: dict[str, dict[str, dict[str, str]]]) -> Iterator[str]:
    """One table a threat model, attacks by defenses; the reasons stand below it by number."""
    yield (
        "Every attack against every defense under every threat model, untargeted and in linf, or in the norm that the "
        "attack has instead. The tests hold the planner to this table; `rbg evaluate --dry-run` says the same of any "
        "other matrix. What only a run can tell is not in it: `manifold` needs a defense with a generator."
    )
    cells = [(a, d, t, said) for a, by in expected.items() for d, of in by.items() for t, said in of.items()]
    defenses = list(dict.fromkeys(d for _, d, _, _ in cells))
    for threat in [t for t in THREATS if any(t == c[2] for c in cells)]:
        here = {(a, d): said for a, d, t, said in cells if t == threat}
        reasons = [said for said in dict.fromkeys(here.values()) if said != RUNS]
        shown = {RUNS: RUNS, None: "", **{said: f"n/a ({n})" for n, said in enumerate(reasons, 1)}}
        rows = [[a, *(shown[here.get((a, d))] for d in defenses)] for a in expected]
        yield f"## {threat}"
        yield table(["attack", *defenses], rows)
        yield "\n".join(f"{n}. {said}" for n, said in enumerate(reasons, 1))


class _Schema(GenerateJsonSchema):
    """Numbers in a record may be infinite or undefined, and are then written as texts."""

    def float_schema(self, schema: Any) -> dict[str, Any]:
        number = super().float_schema(schema)
        return {"anyOf": [number, {"enum": ["Infinity", "-Infinity", "NaN"]}]}


def schema() -> str:
    """The JSON Schema of a stored result."""
    found = Result.model_json_schema(schema_generator=_Schema, mode="serialization")
    found["properties"] |= {seal: {"type": "string", "pattern": "^[0-9a-f]{64}$"} for seal in SEALS}
    found["required"] += SEALS
    return (
        json.dumps({"$schema": GenerateJsonSchema.schema_dialect, **found}, indent=2, sort_keys=True) + "\n"
    )


def command_line() -> str:
    """The help page of every command."""
    blocks = ["The help pages of `rbg` and its commands."]
    top = click.Context(rbg, info_name="rbg", terminal_width=HELP_WIDTH, **rbg.context_settings)
    for command, context in commands(rbg, top):
        blocks += [f"## {context.command_path}", f"```text\n{click.unstyle(command.get_help(context))}\n```"]
    return page("Command line", *blocks)


def commands(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """A command and all below it, in the order of its help."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below and not below.hidden:
                yield from commands(below, click.Context(below, info_name=name, parent=context))


def preset_files() -> str:
    """The presets as they stand in the package."""
    blocks = [
        "Matrices that come with the package: `rbg evaluate --preset NAME`. A file of the same form is a matrix "
        "of your own: `rbg evaluate FILE`. Every key may be left out; options given replace what a file says."
    ]
    for name in presets():
        blocks += [f"## {name}", f"```toml\n{preset_text(name).rstrip()}\n```"]
    return page("Presets", *blocks)

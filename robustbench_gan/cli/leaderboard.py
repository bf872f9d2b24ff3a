"""`rbg leaderboard`: pages from results."""

from __future__ import annotations

import json
from pathlib import Path

import click

from robustbench_gan.base.errors import told
from robustbench_gan.cli.exits import DONE, SOME_FAILED, user_errors
from robustbench_gan.cli.options import STRICT, Place, json_option


@click.group("leaderboard")
def command() -> None:
    """Build leaderboards from results."""


@command.command("build")
@click.argument("directory", type=Place(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    type=Place(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write it; README.md in DIRECTORY by default. FILE.csv gets the flat rows, FILE.svg a picture.",
)
@STRICT
@json_option("Print what was written and which flags were raised as JSON.")
@user_errors
def leaderboard_build(directory: Path, out: Path | None, strict: bool, as_json: bool) -> int:
    """Write the Markdown leaderboard, or a CSV table, of every result below DIRECTORY."""
    from robustbench_gan.base.terminal import say
    from robustbench_gan.flags.across import across, invalid_flags
    from robustbench_gan.leaderboard.load import load_results
    from robustbench_gan.leaderboard.write import build

    written, results = build(directory, out, say=say, strict=strict), load_results(directory)
    findings = across(results)
    invalid = invalid_flags(results, findings)
    if as_json:
        found = [{**one.flag.model_dump(mode="json"), "cells": one.cells} for one in findings.found]
        facts = {
            "wrote": str(written),
            "invalid": invalid,
            "comparisons": findings.comparisons,
            "across": found,
        }
        click.echo(json.dumps(facts, indent=1))
    else:
        click.echo(told(f"wrote {written}"))
    if strict and invalid:
        click.echo(f"rbg: --strict: invalid flags were raised: {', '.join(invalid)}.", err=True)
        return SOME_FAILED
    return DONE


@command.command("convert")
@click.argument("directory", type=Place(exists=True, file_okay=False, path_type=Path))
@user_errors
def leaderboard_convert(directory: Path) -> int:
    """Rewrite every record of an older schema below DIRECTORY as one of today's, with a digest over all of it.

    One that contradicts itself is named, left as it is, and makes the exit code 1.
    """
    from robustbench_gan.leaderboard.convert import convert

    done = convert(directory)
    click.echo(f"{done.converted} records converted, {done.kept} were of today's schema already.")
    for fault in done.refused:
        click.echo(f"rbg: {told(fault)}", err=True)
    return SOME_FAILED if done.refused else DONE

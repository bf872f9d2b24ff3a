"""`rbg explain`: red flags."""

from __future__ import annotations

import click

from robustbench_gan.cli.exits import user_errors
from robustbench_gan.cli.options import json_option


@click.command("explain")
@click.argument("flag", required=False)
@json_option("Print JSON: an array, or the one flag.")
@user_errors
def command(flag: str | None, as_json: bool) -> None:
    """Say what a red FLAG means and what to do about it; without FLAG, list all of them."""
    from robustbench_gan.flags.printing import print_flag, print_flags

    if flag is None:
        print_flags(as_json)
    else:
        print_flag(flag, as_json)

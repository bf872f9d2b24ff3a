"""`rbg show`: records, printed for people."""

from __future__ import annotations

import json
from pathlib import Path

import click

from robustbench_gan.base.errors import UsageError, told
from robustbench_gan.cli.exits import user_errors
from robustbench_gan.cli.options import Place, json_option


@click.command("show")
@click.argument(
    "results",
    nargs=-1,
    required=True,
    metavar="RESULT...",
    type=Place(exists=True, dir_okay=False, path_type=Path),
)
@json_option("Print the record's row as JSON; of several records an array of rows.")
@user_errors
def command(results: tuple[Path, ...], as_json: bool) -> None:
    """Show results with their flags explained, and whether examples that were kept are still the same."""
    from robustbench_gan.cli.show_record import print_result
    from robustbench_gan.leaderboard.flat import rows
    from robustbench_gan.results.stored import read_result

    shown, faults = [], []
    for path in results:
        try:
            record = read_result(path)
        except UsageError as error:
            faults.append(error)
            continue
        if as_json:
            shown.append(rows([record])[0])
        else:
            print_result(record, path)
    if as_json and shown:
        click.echo(json.dumps(shown if len(results) > 1 else shown[0], indent=1, allow_nan=False))
    for fault in faults[:-1]:
        click.echo(f"rbg: {told(str(fault))}", err=True)
    if faults:
        raise faults[-1]

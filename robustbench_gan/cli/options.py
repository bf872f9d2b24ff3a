"""Options that several commands share, each defined once. No torch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import expanded

F = TypeVar("F", bound=Callable[..., Any])


class Place(click.Path):
    """A path, `~` written out: a shell does so only at the beginning of a word."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path as a Path."""
        if not os.fspath(value):  # of a variable that is not set; it would be the directory one is in
            self.fail("it is empty: expected a path.", param, ctx)
        return super().convert(expanded(os.fspath(value)), param, ctx)


def finite(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Refuse what compares with no clock."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no number of seconds; give one above 0.")
    return value


def as_radius(context: click.Context, option: click.Parameter, given: Any) -> Any:
    """Radii as numbers, however they are written."""
    from robustbench_gan.nouns.budget import radius

    try:
        return tuple(map(radius, given)) if isinstance(given, tuple) else radius(given)
    except UsageError as error:
        raise click.BadParameter(str(error)) from error


def with_dry_run(context: click.Context, option: click.Parameter, verbose: bool) -> bool:
    """Refuse to be ignored."""
    if verbose and not context.params["dry_run"]:
        raise click.BadParameter("it goes with --dry-run.", param_hint="--verbose")
    return verbose


BATCH_SIZE = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    metavar="N",
    help="Samples an attack is given at once; cannot change a result.",
)
MAX_CELL_MINUTES = click.option(
    "--max-cell-minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="F",
    help="Cells sure to take longer are not run, those that may are stopped there, and the table says so.",
)
WEIGHTS = click.option(
    "--weights",
    type=Place(exists=True, dir_okay=False, path_type=Path),
    help="Safetensors weights of a classifier given as a file.",
)
CELL_TIMEOUT = click.option(
    "--cell-timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    callback=finite,
    help="Run each cell in a process of its own and kill it, with all it has started, after this. Training does not "
    "count while it shows progress.",
)
DEVICE = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute.",
)
STRICT = click.option(
    "--strict",
    is_flag=True,
    help="Exit with 1, after writing everything, where an invalid red flag was raised.",
)
DATASET = click.option("--dataset", default="mnist", show_default=True, metavar="S", help="Data set.")
NORM = click.option("--norm", default="linf", show_default=True, metavar="N", help="Norm of the budget.")
EPS = click.option(
    "--eps",
    default="0.3",
    show_default=True,
    callback=as_radius,
    metavar="F",
    help="Radius on pixels in [0, 1], as 0.3 or 8/255.",
)
VERBOSE = click.option(
    "-v", "--verbose", is_flag=True, callback=with_dry_run, help="With --dry-run: list every cell as well."
)
TRAIN_SEED = click.option(
    "--train-seed", type=int, default=0, show_default=True, metavar="N", help="Seed of trainings."
)


def json_option(help: str) -> Callable[[F], F]:
    """The option --json: what is printed for people goes to standard error, JSON to standard output."""
    return click.option("--json", "as_json", is_flag=True, help=help)


def dry_run_option(help: str) -> Callable[[F], F]:
    """The option --dry-run of a command that trains or attacks."""
    return click.option("--dry-run", is_flag=True, is_eager=True, help=help)  # others ask for it


def classifier_option(default: str) -> Callable[[F], F]:
    """The option --classifier of a command that looks at one."""
    return click.option("--classifier", default=default, show_default=True, metavar="S", help="Classifier.")


def out_option(default: str, help: str) -> Callable[[F], F]:
    """The option --out of a command that writes a directory."""
    place = Place(file_okay=False, path_type=Path)
    return click.option(
        "--out", type=place, default=Path(default), show_default=True, metavar="DIR", help=help
    )


def overrides(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, under the names a matrix has for them."""
    given: dict[str, Any] = {
        key: list(v) if isinstance(v, tuple) else v for key, v in options.items() if v not in (None, ())
    }
    if "samples" in given and given["samples"] != "all":
        try:
            given["samples"] = int(given["samples"])
        except ValueError:
            raise UsageError(f"--samples {given['samples']!r}: expected a whole number or 'all'.") from None
    return given

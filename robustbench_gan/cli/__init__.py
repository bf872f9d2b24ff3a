"""The command line, `rbg`. Imports torch only inside the commands that need it."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click
from click.core import ParameterSource

from robustbench_gan import __version__
from robustbench_gan.base import stopping, streams
from robustbench_gan.base.errors import UsageError, describe, told, unknown
from robustbench_gan.base.files import expanded

if TYPE_CHECKING:
    from robustbench_gan.cell.question import Planned
    from robustbench_gan.engine.matrix import Matrix
    from robustbench_gan.engine.plan import Step

DONE, SOME_FAILED, BAD_USAGE = 0, 1, 2  # and 128 + the number of the signal that ended a command
P = ParamSpec("P")
R = TypeVar("R")


def user_errors(command: Callable[P, int | None]) -> Callable[P, None]:
    """Turn errors a user can mend into one line and their exit code, signals into 128 + their number.

    What the command returns is its exit code: it does not exit itself, so that an exit is always a plugin's. A bug
    keeps its traceback.
    """

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        before = threading.enumerate()
        with streams.forgiving(), stopping.listening():
            code = _exit_code(command, *args, **kwargs)
        stopping.abandon(before, code)
        if code:
            sys.exit(code)

    return wrapped


def _exit_code(command: Callable[P, int | None], *args: P.args, **kwargs: P.kwargs) -> int:
    try:
        with stopping.PluginCall():
            code = command(*args, **kwargs) or DONE
        sys.stdout.flush()
        return code
    except UsageError as error:
        click.echo(f"rbg: {told(str(error))}", err=True)
        return error.code
    except KeyboardInterrupt as interrupt:
        if not stopping.is_users(interrupt):
            return _left(interrupt)
        stopping.let_go()
        number = getattr(interrupt, "number", signal.SIGINT)
        click.echo(
            f"rbg: {stopping.ended_by(number)}. What was finished is kept; the same command goes on from there.",
            err=True,
        )
        return int(128 + number)
    except SystemExit as left:
        return _left(left)


def _left(error: BaseException) -> int:
    """Say where a plugin tried to end the command."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    click.echo(
        f"rbg: {told(frame.filename)}:{frame.lineno} raised {told(describe(error))}: a plugin must not end the "
        "command. Mend or uninstall it.",
        err=True,
    )
    return SOME_FAILED


class Place(click.Path):
    """A path, `~` written out: a shell does so only at the beginning of a word."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path as a Path."""
        if not os.fspath(value):  # of a variable that is not set; it would be the directory one is in
            self.fail("it is empty: expected a path.", param, ctx)
        return super().convert(expanded(os.fspath(value)), param, ctx)


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


def _finite(context: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Refuse what compares with no clock."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no number of seconds; give one above 0.")
    return value


def _radius(context: click.Context, option: click.Parameter, given: Any) -> Any:
    """Radii as numbers, however they are written."""
    from robustbench_gan.nouns.budget import radius

    try:
        return tuple(map(radius, given)) if isinstance(given, tuple) else radius(given)
    except UsageError as error:
        raise click.BadParameter(str(error)) from error


CELL_TIMEOUT = click.option(
    "--cell-timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    callback=_finite,
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
JSON_ROWS = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON array of rows on standard output."
)
STRICT = click.option(
    "--strict",
    is_flag=True,
    help="Exit with 1, after writing everything, where an invalid red flag was raised.",
)
JSON_ARRAY = click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")


def out_option(default: str, help: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The option --out of a command that writes a directory."""
    place = Place(file_okay=False, path_type=Path)
    return click.option(
        "--out", type=place, default=Path(default), show_default=True, metavar="DIR", help=help
    )


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="rbg")
def main() -> None:
    """Measure how robust image classifiers and their defenses really are."""


@main.command()
@click.argument("matrix", required=False, type=Place(dir_okay=False, path_type=Path))
@click.option(
    "--preset",
    metavar="P",
    help="A matrix of the package: quick (the default), standard, paper or defense-gan-2018.",
)
@click.option("--dataset", "datasets", multiple=True, metavar="S", help="Data set, e.g. mnist. Repeatable.")
@click.option(
    "--classifier",
    "classifiers",
    multiple=True,
    metavar="S",
    help="Classifier, e.g. small-cnn, or your own: path/to/file.py:factory with --weights, or both in one: "
    "path/to/file.py:factory@weights.safetensors. Repeatable.",
)
@click.option(
    "--weights",
    type=Place(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Safetensors weights of the classifiers given as files: once for all of them, or once for each, in order.",
)
@click.option(
    "--defense",
    "defenses",
    multiple=True,
    metavar="S",
    help="Defense with parameters, e.g. magnet:epochs=5; outer+inner composes. Repeatable.",
)
@click.option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="S",
    help="Attack with parameters, e.g. pgd:steps=40,restarts=5. Repeatable.",
)
@click.option(
    "--threat",
    "threats",
    multiple=True,
    metavar="NAME",
    help="Threat model: black-box, query, gray-box, gray-box:copy, white-box or seed-known. Repeatable.",
)
@click.option(
    "--gradient",
    type=click.Choice(["auto", "full", "bpda", "truncated", "cut"]),
    help="The gradient a white-box attacker gets; auto takes the worst of all that apply.",
)
@click.option(
    "--eot", type=click.IntRange(min=1), metavar="N", help="EOT draws a white-box pass averages over."
)
@click.option(
    "--goal", "goals", multiple=True, metavar="G", help="untargeted, random, least-likely or all. Repeatable."
)
@click.option("--norm", metavar="N", help="Norm of the budget: l0, l1, l2 or linf.")
@click.option(
    "--eps", multiple=True, default=None, callback=_radius, metavar="F",
    help="Radius on pixels in [0, 1], as 0.03 or 8/255. Repeatable.",
)  # fmt: skip
@click.option("--samples", metavar="N", help="Test images to judge, or 'all'.")
@click.option("--seed", type=int, metavar="N", help="Seed of attacks and judge.")
@click.option(
    "--judge-seeds",
    type=click.IntRange(min=1),
    metavar="K",
    help="How many seeds of the defense every example is judged under.",
)
@BATCH_SIZE
@MAX_CELL_MINUTES
@CELL_TIMEOUT
@DEVICE
@out_option("rbg-results", "Where results and the leaderboard go.")
@click.option(
    "--keep-adversarial",
    is_flag=True,
    help="Keep each cell's adversarial images as safetensors beside its record, which holds their digest.",
)
@click.option(
    "--dry-run", is_flag=True, help="Show what would be trained and run, and what is not applicable."
)
@STRICT
@JSON_ROWS
@user_errors
def evaluate(
    matrix: Path | None, preset: str | None, weights: tuple[Path, ...], batch_size: int,
    max_cell_minutes: float | None, cell_timeout: float | None, device: str, out: Path, dry_run: bool,
    keep_adversarial: bool, strict: bool, as_json: bool, **options: Any,
) -> int:  # fmt: skip
    """Evaluate defenses against attacks under threat models.

    With no argument: the preset `quick`. MATRIX is a TOML file of the same form as a preset; options given
    here replace what it says. Finished cells are kept: the same command goes on where it stopped.
    """
    from robustbench_gan.engine import matrix as matrices
    from robustbench_gan.engine.run import run
    from robustbench_gan.training.store import Store
    from robustbench_gan.training.workshop import Workshop, pick_device

    if len(weights) > 1:
        options["classifiers"] = _one_each(options["classifiers"], weights)
    overrides = _overrides(options, max_cell_minutes)
    asked = _matrix(matrix, preset, overrides)
    shared = weights[0] if len(weights) == 1 else None
    workshop = Workshop(Store(), pick_device(device), asked.train_seed, shared)
    planned = matrices.lay_out(asked, workshop)
    if dry_run:
        _show_plan(asked, planned, as_json)
        return DONE
    code = run(
        asked, planned, workshop, out=out, batch_size=batch_size, as_json=as_json, strict=strict,
        cell_timeout=cell_timeout, keep_adversarial=keep_adversarial,
    )  # fmt: skip
    return code


def _one_each(classifiers: Sequence[str], weights: Sequence[Path]) -> tuple[str, ...]:
    """The classifiers of the command line, those given as files with their weights: the first with the first.

    Raises UsageError where there are more of one than of the other.
    """
    from robustbench_gan.nouns.user_files import FORM, FileReference, is_file_reference

    files = [c for c in classifiers if is_file_reference(c) and FileReference.parse(c).weights is None]
    if len(files) != len(weights):
        raise UsageError(
            f"--weights is given {len(weights)} times for {len(files)} times --classifier path/to/file.py:factory: "
            f"give it once for all of them or once for each, in order; a matrix has its own as {FORM}."
        )
    left = iter(weights)
    return tuple(f"{c}@{next(left)}" if c in files else c for c in classifiers)


def _overrides(options: dict[str, Any], max_cell_minutes: float | None) -> dict[str, Any]:
    """The options that were given, under the names a matrix has for them."""
    given: dict[str, Any] = {
        key: list(v) if isinstance(v, tuple) else v for key, v in options.items() if v not in (None, ())
    }
    if "samples" in given and given["samples"] != "all":
        try:
            given["samples"] = int(given["samples"])
        except ValueError:
            raise UsageError(f"--samples {given['samples']!r}: expected a whole number or 'all'.") from None
    if max_cell_minutes is not None:
        given["max_cell_minutes"] = max_cell_minutes
    return given


def _matrix(path: Path | None, preset: str | None, overrides: dict[str, Any]) -> Matrix:
    from robustbench_gan.engine import matrix as matrices

    if path is not None and preset is not None:
        raise UsageError("give a MATRIX file or --preset, not both.")
    if path is not None:
        if not path.exists() and str(path) in matrices.presets():
            raise UsageError(f"there is no file {path}; for the preset of that name write --preset {path}.")
        return matrices.read_matrix_file(path, overrides)
    name = preset or "quick"
    return matrices.read_matrix(matrices.preset_text(name), f"preset {name}", overrides)


def _show_plan(asked: Matrix, planned: list[Planned], as_json: bool) -> None:
    """Print the shared steps and the cells of a matrix without running any."""
    from robustbench_gan.base.terminal import Plain
    from robustbench_gan.engine.plan import labels_of, steps_of

    steps, called = steps_of(planned), labels_of(planned)
    if as_json:
        cells = [{**json.loads(p.cell.model_dump_json()), "not_applicable": p.reason} for p in planned]
        shared = [{"kind": s.kind, "label": s.label, "key": s.key} for s in steps if s.kind != "cell"]
        click.echo(
            json.dumps({"matrix": asked.model_dump(mode="json"), "steps": shared, "cells": cells}, indent=1)
        )
        return
    console = Plain(soft_wrap=True, highlight=False)
    console.print(f"{asked.name}: trained once and shared by cells", style="bold")
    for line in _trained_lines(steps):
        console.print(f"  {line}", markup=False)
    console.print("cells", style="bold")
    reasons: dict[str, list[str]] = {}
    for item in planned:
        c = item.cell
        budget = f"{c.goal}, {c.norm} {c.eps:g}, n {c.samples}, {c.judge_seeds} judge seeds"
        kinds = ("dataset", "classifier", "defense", "threat")
        where = " / ".join([*(called(kind, getattr(c, kind)) for kind in kinds), c.attack])
        if item.reason:
            reasons.setdefault(item.reason, []).append(where)
        else:
            console.print(f"  {where}  ({budget})", markup=False)
    for reason, places in reasons.items():
        console.print(f"not applicable: {reason}", style="bold", markup=False)
        for where in places:
            console.print(f"  {where}", markup=False)
    runs = sum(not item.reason for item in planned)
    console.print(f"{runs} cells to run, {len(planned) - runs} not applicable.")
    if asked.max_cell_minutes:
        limit = f"{asked.max_cell_minutes:g} minutes"
        console.print(f"Cells sure to take more than {limit} will not be run; others are stopped there.")


def _trained_lines(steps: Sequence[Step]) -> list[str]:
    """Each trained thing on a line; settings of one defense share theirs, as they do whatever they do not change."""
    settings: dict[tuple[str, str], list[Step]] = {}
    for step in steps:
        if step.kind != "cell":
            one = step.label.partition(" (")[0] if step.kind in ("defense", "copy") else step.label
            settings.setdefault((step.kind, one), []).append(step)
    return [
        f"{kind:11}{name}, {len(own)} settings: trained anew only where one changes the training"
        if len(own) > 1
        else f"{kind:11}{own[0].label}"
        for (kind, name), own in settings.items()
    ]


@main.command()
@click.argument("defenses", nargs=-1, required=True, metavar="DEFENSE...")
@click.option(
    "--over",
    "axes",
    multiple=True,
    required=True,
    metavar="NAME=v1,v2,...",
    help="A parameter of the defense and its values; stage.NAME in a composition. Repeatable: all combinations.",
)
@click.option("--one-at-a-time", is_flag=True, help="Vary each --over alone, the others as DEFENSE has them.")
@click.option("--dataset", default="mnist", show_default=True, metavar="S", help="Data set.")
@click.option("--classifier", default="f", show_default=True, metavar="S", help="Classifier.")
@WEIGHTS
@click.option("--attack", default="fgsm", show_default=True, metavar="S", help="Attack with parameters.")
@click.option(
    "--threat",
    default="black-box:model=e",
    show_default=True,
    metavar="S",
    help="Threat model; in black-box one substitute is attacked for all points.",
)
@click.option(
    "--reference",
    metavar="S",
    help="The defense that the substitute learns from; the first DEFENSE as given by default.",
)
@click.option("--norm", default="linf", show_default=True, metavar="N", help="Norm of the budget.")
@click.option(
    "--eps", default="0.3", show_default=True, callback=_radius, metavar="F",
    help="Radius on pixels in [0, 1], as 0.3 or 8/255.",
)  # fmt: skip
@click.option("--goal", default="untargeted", show_default=True, metavar="G", help="The attacker's goal.")
@click.option("--samples", default="200", show_default=True, metavar="N", help="Test images, or 'all'.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of attack and judge.")
@click.option("--train-seed", type=int, default=0, show_default=True, metavar="N", help="Seed of trainings.")
@click.option(
    "--judge-seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="K",
    help="Seeds of the defense every example is judged under.",
)
@BATCH_SIZE
@MAX_CELL_MINUTES
@CELL_TIMEOUT
@DEVICE
@out_option("rbg-sweep", "Where results, sweep.md, sweep.csv and sweep.png go.")
@click.option("--dry-run", is_flag=True, help="Show the points and what would be trained.")
@STRICT
@JSON_ROWS
@user_errors
def sweep(
    defenses: tuple[str, ...], axes: tuple[str, ...], one_at_a_time: bool, reference: str | None,
    weights: Path | None, batch_size: int, cell_timeout: float | None, device: str, out: Path, dry_run: bool,
    strict: bool, as_json: bool, **options: Any,
) -> int:  # fmt: skip
    """Judge a defense at many settings of its parameters, all against one fixed attacker.

    `rbg sweep defense-gan:iterations=100 --over iterations=25,50,100,200,400,800,1600 --over restarts=1,2,5,10,20
    --one-at-a-time` varies L at R = 10 and R at L = 100, as Tables 8 and 10 of the Defense-GAN paper do. Every point is
    an ordinary result in DIR; the same command goes on where it stopped. Writes a table, a CSV and, with the extra
    `plots`, a figure.
    """
    from robustbench_gan.engine import sweep as sweeps
    from robustbench_gan.training.store import Store
    from robustbench_gan.training.workshop import pick_device

    found = sweeps.points(defenses, [sweeps.Axis.parse(text) for text in axes], one_at_a_time=one_at_a_time)
    single = {
        name: options.pop(name) for name in ("dataset", "classifier", "attack", "threat", "goal", "eps")
    }
    given = _overrides(
        {**{f"{name}s" if name != "eps" else name: [v] for name, v in single.items()}, **options}, None
    )
    asked = sweeps.matrix({"name": "sweep", **given})
    workshop = sweeps.PinnedWorkshop(Store(), pick_device(device), asked.train_seed, weights)
    laid = sweeps.plan(asked, found, reference or defenses[0], workshop)
    if dry_run:
        _show_plan(asked, laid.cells, as_json)
        return DONE
    code = sweeps.run(
        laid, workshop, out=out, batch_size=batch_size, as_json=as_json, strict=strict,
        cell_timeout=cell_timeout,
    )  # fmt: skip
    return code


@main.command()
@click.argument("defense", required=False)
@click.option(
    "--self-test",
    is_flag=True,
    help="Ask it of the checks: plant known faults and honest systems, and see whether they tell them apart.",
)
@click.option("--dataset", default="mnist", show_default=True, metavar="S", help="Data set.")
@click.option("--classifier", default="small-cnn", show_default=True, metavar="S", help="Classifier.")
@WEIGHTS
@click.option("--norm", default="linf", show_default=True, metavar="N", help="Norm of the budget.")
@click.option(
    "--eps", default="0.3", show_default=True, callback=_radius, metavar="F",
    help="Radius on pixels in [0, 1], as 0.3 or 8/255.",
)  # fmt: skip
@click.option(
    "--samples", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="Test images."
)
@click.option(
    "--seed",
    "seeds",
    type=int,
    multiple=True,
    metavar="N",
    help="Seed of attacks and judge, 0 by default; of a self-test's trainings as well, repeatable, 0 to 2.",
)
@click.option("--train-seed", type=int, default=0, show_default=True, metavar="N", help="Seed of trainings.")
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=40,
    show_default=True,
    metavar="N",
    help="Iterations of PGD.",
)
@click.option(
    "--eot",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="Draws a pass averages over, where the defense is random.",
)
@click.option(
    "--check", "checks", multiple=True, metavar="NAME", help="Only this check. Repeatable; all by default."
)
@click.option(
    "--max-check-minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="F",
    help="Checks estimated above this are not run, and the table says so.",
)
@BATCH_SIZE
@DEVICE
@out_option("rbg-audit", "Where results, audit.md and audit.json go.")
@click.option("--dry-run", is_flag=True, help="Show what each check would run and cost.")
@STRICT
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the audit, or a self-test's rows.")
@user_errors
def audit(
    defense: str | None, self_test: bool, seeds: tuple[int, ...], weights: Path | None,
    checks: tuple[str, ...], batch_size: int, device: str, max_check_minutes: float | None, out: Path,
    dry_run: bool, strict: bool, as_json: bool, **options: Any,
) -> int:  # fmt: skip
    """Ask whether the evaluation of DEFENSE can be believed: checks that need runs of their own.

    Convergence, restarts, EOT, finite differences, random search, large and unbounded budgets, batch coupling, state
    and others, corrected together for being many. Ends with a verdict table; passing is no proof. Finished work is
    kept in DIR: the same command goes on where it stopped.

    With --self-test, and without DEFENSE, the checks themselves are asked, those of cells and those of audits: exits
    with 1 if a planted fault was not caught by the flag or status meant for it, or an honest system was accused of
    anything invalid. Only --seed, --dataset (control-digits by default), --device and --json go with it.
    """
    if self_test:
        return _self_test(click.get_current_context(), seeds, device, as_json)
    if defense is None:
        raise UsageError("audit: give a DEFENSE to audit, as in `rbg audit magnet`, or --self-test.")
    if len(seeds) > 1:
        raise UsageError(
            f"--seed {' --seed '.join(map(str, seeds))}: an audit has one seed; several go with --self-test."
        )
    from robustbench_gan.audit import command
    from robustbench_gan.audit.catalogue import chosen
    from robustbench_gan.audit.record import Asked
    from robustbench_gan.audit.system import System
    from robustbench_gan.training.store import Store
    from robustbench_gan.training.workshop import Workshop, pick_device

    picked, asked = chosen(checks), Asked(defense=defense, seed=(*seeds, 0)[0], **options)
    system = System(asked, Workshop(Store(), pick_device(device), asked.train_seed, weights), batch_size)
    system.names()
    if dry_run:
        command.plan(system, picked, as_json)
        return DONE
    return command.run(
        system, picked, out, max_check_minutes=max_check_minutes, as_json=as_json, strict=strict
    )


def _self_test(context: click.Context, seeds: tuple[int, ...], device: str, as_json: bool) -> int:
    """What `rbg audit --self-test` does. Raises UsageError for anything that it has no use for."""
    given = [p for p in context.command.params if _was_given(context, p)]
    known = ("self_test", "seeds", "dataset", "device", "as_json")
    if others := [p for p in given if p.name not in known]:
        named = ", ".join(p.opts[0] if isinstance(p, click.Option) else "DEFENSE" for p in others)
        raise UsageError(
            f"--self-test: {named}: a self-test plants systems of its own; expected no more than --seed, --dataset, "
            "--device and --json."
        )
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seed {' --seed '.join(map(str, seeds))}: a seed is given twice.")
    from robustbench_gan.audit import self_test

    dataset = context.params["dataset"] if "dataset" in {p.name for p in given} else self_test.DATASET
    return self_test.report(seeds or self_test.SEEDS, dataset=dataset, device=device, as_json=as_json)


def _was_given(context: click.Context, parameter: click.Parameter) -> bool:
    """Does the command line itself have it?"""
    return context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE


@main.command("list")
@click.argument("what", type=click.Choice(["attacks", "defenses", "models", "datasets", "threats"]))
@click.argument("name", required=False)
@JSON_ARRAY
@click.option(
    "--names", is_flag=True, help="Only the names, without controls and without importing any plugin."
)
@click.option("--all", "everything", is_flag=True, help="Controls as well: faults on purpose.")
@user_errors
def list_(what: str, name: str | None, as_json: bool, names: bool, everything: bool) -> None:
    """Show what is installed, a line a name; with NAME what it does, its parameters and defaults, who brought it."""
    from robustbench_gan.cli.catalogue import catalogue, print_catalogue, print_entry
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


@main.command()
@click.argument("specs", nargs=-1, required=True, metavar="S...")
@click.option("--dataset", default="mnist", show_default=True, help="Data set to train on.")
@click.option(
    "--classifier", default="small-cnn", show_default=True, help="Classifier that defenses stand on."
)
@WEIGHTS
@click.option("--train-seed", type=int, default=0, show_default=True, help="Seed of the training.")
@DEVICE
@JSON_ARRAY
@user_errors
def train(
    specs: tuple[str, ...], dataset: str, classifier: str, weights: Path | None, train_seed: int, device: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Train classifiers and defenses into the store, e.g. `rbg train a c magnet`.

    Prints each one's accuracy on the test images; a defense's with its classifier behind it.
    """
    from robustbench_gan.engine.run import train_all
    from robustbench_gan.training.store import Store
    from robustbench_gan.training.workshop import Workshop, pick_device

    workshop = Workshop(Store(), pick_device(device), train_seed, weights)
    rows = train_all(specs, workshop, dataset=dataset, classifier=classifier)
    if as_json:
        click.echo(json.dumps(rows, indent=1))


@main.command()
@click.argument(
    "results",
    nargs=-1,
    required=True,
    metavar="RESULT...",
    type=Place(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the record's row as JSON; of several records an array of rows.",
)
@user_errors
def show(results: tuple[Path, ...], as_json: bool) -> None:
    """Show results with their flags explained, and whether examples that were kept are still the same."""
    from robustbench_gan.cli.showing import print_result
    from robustbench_gan.leaderboard import rows
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


@main.command()
@click.argument("flag", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an array, or the one flag.")
@user_errors
def explain(flag: str | None, as_json: bool) -> None:
    """Say what a red FLAG means and what to do about it; without FLAG, list all of them."""
    from robustbench_gan.flags.printing import print_flag, print_flags

    if flag is None:
        print_flags(as_json)
    else:
        print_flag(flag, as_json)


@main.group()
def leaderboard() -> None:
    """Build leaderboards from results."""


@leaderboard.command("build")
@click.argument("directory", type=Place(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    type=Place(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write it; README.md in DIRECTORY by default. FILE.csv gets the flat rows, FILE.svg a picture.",
)
@STRICT
@click.option(
    "--json", "as_json", is_flag=True, help="Print what was written and which flags were raised as JSON."
)
@user_errors
def leaderboard_build(directory: Path, out: Path | None, strict: bool, as_json: bool) -> int:
    """Write the Markdown leaderboard, or a CSV table, of every result below DIRECTORY."""
    from robustbench_gan.base.terminal import say
    from robustbench_gan.flags.across import across, invalid_flags
    from robustbench_gan.leaderboard import build, load_results

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


@leaderboard.command("convert")
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


@main.group()
def cache() -> None:
    """Look after the store of trained artifacts."""


@cache.command("list")
@JSON_ARRAY
@user_errors
def cache_list(as_json: bool) -> None:
    """List stored artifacts with their size and facts."""
    from robustbench_gan.cli.showing import print_cache
    from robustbench_gan.training.store import Store

    print_cache(Store(), as_json)


@cache.command("clear")
@click.confirmation_option(prompt="Delete every trained artifact?")
@user_errors
def cache_clear() -> None:
    """Delete every stored artifact and what is kept of image folders; results are not touched."""
    from robustbench_gan.data import kept
    from robustbench_gan.training.store import Store

    store = Store()
    kept.clear()
    click.echo(f"deleted {store.clear()} artifacts from {store.root}")

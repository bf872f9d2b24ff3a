"""`rbg evaluate`: a matrix from options, a preset or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustbench_gan.base.errors import UsageError
from robustbench_gan.cli.exits import DONE, user_errors
from robustbench_gan.cli.options import (
    BATCH_SIZE,
    CELL_TIMEOUT,
    DEVICE,
    MAX_CELL_MINUTES,
    STRICT,
    VERBOSE,
    Place,
    as_radius,
    dry_run_option,
    json_option,
    out_option,
    overrides,
)

if TYPE_CHECKING:
    from robustbench_gan.engine.matrix import Matrix


@click.command("evaluate")
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
    "--eps", multiple=True, default=None, callback=as_radius, metavar="F",
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
@dry_run_option("Show what would be trained and run, how long it may take and what is not applicable.")
@VERBOSE
@STRICT
@json_option("Print one JSON array of rows on standard output.")
@user_errors
def command(
    matrix: Path | None, preset: str | None, weights: tuple[Path, ...], batch_size: int,
    cell_timeout: float | None, device: str, out: Path, dry_run: bool, verbose: bool,
    keep_adversarial: bool, strict: bool, as_json: bool, **options: Any,
) -> int:  # fmt: skip
    """Evaluate defenses against attacks under threat models.

    With no argument: the preset `quick`. MATRIX is a TOML file of the same form as a preset; options given
    here replace what it says. Finished cells are kept: the same command goes on where it stopped.
    """
    from robustbench_gan.cli.dry_run import show_plan
    from robustbench_gan.engine.layout import lay_out
    from robustbench_gan.engine.run import run
    from robustbench_gan.training.device import pick_device
    from robustbench_gan.training.store import Store
    from robustbench_gan.training.workshop import Workshop

    if len(weights) > 1:
        options["classifiers"] = _one_each(options["classifiers"], weights)
    asked = _matrix(matrix, preset, overrides(options))
    shared = weights[0] if len(weights) == 1 else None
    workshop = Workshop(Store(), pick_device(device), asked.train_seed, shared)
    planned = lay_out(asked, workshop)
    if dry_run:
        show_plan(asked, planned, workshop, out, as_json=as_json, verbose=verbose)
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
    from robustbench_gan.nouns.spec import FORM, FileReference, classifier_of

    given = [(text, classifier_of(text)) for text in classifiers]
    files = [c for c, read in given if isinstance(read, FileReference) and read.weights is None]
    if len(files) != len(weights):
        raise UsageError(
            f"--weights is given {len(weights)} times for {len(files)} times --classifier path/to/file.py:factory: "
            f"give it once for all of them or once for each, in order; a matrix has its own as {FORM}."
        )
    left = iter(weights)
    return tuple(f"{c}@{next(left)}" if c in files else c for c in classifiers)


def _matrix(path: Path | None, preset: str | None, given: dict[str, Any]) -> Matrix:
    """The matrix of a file or a preset, `quick` by default, with what the command line gives in its place."""
    from robustbench_gan.engine import matrix as matrices

    if path is not None and preset is not None:
        raise UsageError("give a MATRIX file or --preset, not both.")
    if path is not None:
        if not path.exists() and str(path) in matrices.presets():
            raise UsageError(f"there is no file {path}; for the preset of that name write --preset {path}.")
        return matrices.read_matrix_file(path, given)
    name = preset or "quick"
    return matrices.read_matrix(matrices.preset_text(name), f"preset {name}", given)

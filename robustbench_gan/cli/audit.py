"""`rbg audit`: whether an evaluation can be believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from robustbench_gan.base.errors import UsageError
from robustbench_gan.cli.exits import DONE, user_errors
from robustbench_gan.cli.options import (
    BATCH_SIZE,
    DATASET,
    DEVICE,
    EPS,
    NORM,
    STRICT,
    TRAIN_SEED,
    WEIGHTS,
    classifier_option,
    dry_run_option,
    json_option,
    out_option,
)


@click.command("audit")
@click.argument("defense", required=False)
@click.option(
    "--self-test",
    is_flag=True,
    help="Ask it of the checks: plant known faults and honest systems, and see whether they tell them apart.",
)
@DATASET
@classifier_option("small-cnn")
@WEIGHTS
@NORM
@EPS
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
@TRAIN_SEED
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
@dry_run_option("Show what each check would run and cost.")
@STRICT
@json_option("Print JSON: the audit, or a self-test's rows.")
@user_errors
def command(
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
    from robustbench_gan.audit.catalogue import chosen
    from robustbench_gan.audit.command import plan, run
    from robustbench_gan.audit.record import Asked
    from robustbench_gan.audit.system import System
    from robustbench_gan.nouns.spec import Chain, Spec, classifier_of
    from robustbench_gan.training.device import pick_device
    from robustbench_gan.training.store import Store
    from robustbench_gan.training.workshop import Workshop

    picked, asked = chosen(checks), Asked(
        defense=Chain.of(defense), dataset=Spec.of(options.pop("dataset")),
        classifier=classifier_of(options.pop("classifier")), seed=(*seeds, 0)[0], **options,
    )  # fmt: skip
    system = System(asked, Workshop(Store(), pick_device(device), asked.train_seed, weights), batch_size)
    system.names()
    if dry_run:
        plan(system, picked, as_json)
        return DONE
    return run(system, picked, out, max_check_minutes=max_check_minutes, as_json=as_json, strict=strict)


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
    from robustbench_gan.audit.catalogue import chosen

    dataset = context.params["dataset"] if "dataset" in {p.name for p in given} else self_test.DATASET
    return self_test.report(
        seeds or self_test.SEEDS, chosen=chosen, dataset=dataset, device=device, as_json=as_json
    )


def _was_given(context: click.Context, parameter: click.Parameter) -> bool:
    """Does the command line itself have it?"""
    return context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE

"""`rbg sweep`: a defense at many settings of its parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from robustbench_gan.cli.exits import DONE, user_errors
from robustbench_gan.cli.options import (
    BATCH_SIZE,
    CELL_TIMEOUT,
    DATASET,
    DEVICE,
    EPS,
    MAX_CELL_MINUTES,
    NORM,
    STRICT,
    TRAIN_SEED,
    VERBOSE,
    WEIGHTS,
    classifier_option,
    dry_run_option,
    json_option,
    out_option,
    overrides,
)


@click.command("sweep")
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
@DATASET
@classifier_option("f")
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
@NORM
@EPS
@click.option("--goal", default="untargeted", show_default=True, metavar="G", help="The attacker's goal.")
@click.option("--samples", default="200", show_default=True, metavar="N", help="Test images, or 'all'.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of attack and judge.")
@TRAIN_SEED
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
@dry_run_option("Show the points, what would be trained and how long it may take.")
@VERBOSE
@STRICT
@json_option("Print one JSON array of rows on standard output.")
@user_errors
def command(
    defenses: tuple[str, ...], axes: tuple[str, ...], one_at_a_time: bool, reference: str | None,
    weights: Path | None, batch_size: int, cell_timeout: float | None, device: str, out: Path, dry_run: bool,
    verbose: bool, strict: bool, as_json: bool, **options: Any,
) -> int:  # fmt: skip
    """Judge a defense at many settings of its parameters, all against one fixed attacker.

    `rbg sweep defense-gan:iterations=100 --over iterations=25,50,100,200,400,800,1600 --over restarts=1,2,5,10,20
    --one-at-a-time` varies L at R = 10 and R at L = 100, as Tables 8 and 10 of the Defense-GAN paper do. Every point is
    an ordinary result in DIR; the same command goes on where it stopped. Writes a table, a CSV and, with the extra
    `plots`, a figure.
    """
    from robustbench_gan.cli.dry_run import show_plan
    from robustbench_gan.engine import sweep as sweeps
    from robustbench_gan.engine.points import Axis, points
    from robustbench_gan.engine.run import run
    from robustbench_gan.nouns.spec import Chain
    from robustbench_gan.training.device import pick_device
    from robustbench_gan.training.store import Store

    chains = [Chain.of(text) for text in defenses]
    found = points(chains, [Axis.parse(text) for text in axes], one_at_a_time=one_at_a_time)
    single = {
        name: options.pop(name) for name in ("dataset", "classifier", "attack", "threat", "goal", "eps")
    }
    given = overrides(
        {**{f"{name}s" if name != "eps" else name: [v] for name, v in single.items()}, **options}
    )
    asked = sweeps.matrix({"name": "sweep", **given})
    workshop = sweeps.PinnedWorkshop(Store(), pick_device(device), asked.train_seed, weights)
    laid = sweeps.plan(asked, found, Chain.of(reference) if reference else chains[0], workshop)
    if dry_run:
        show_plan(asked, laid.cells, workshop, out, as_json=as_json, verbose=verbose)
        return DONE
    with sweeps.written(laid, out):
        return run(
            laid.asked, laid.cells, workshop, out=out, batch_size=batch_size, as_json=as_json, strict=strict,
            cell_timeout=cell_timeout,
        )  # fmt: skip

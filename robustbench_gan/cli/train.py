"""`rbg train`: artifacts for the store."""

from __future__ import annotations

import json
from pathlib import Path

import click

from robustbench_gan.cli.exits import user_errors
from robustbench_gan.cli.options import DEVICE, WEIGHTS, json_option


@click.command("train")
@click.argument("specs", nargs=-1, required=True, metavar="S...")
@click.option("--dataset", default="mnist", show_default=True, help="Data set to train on.")
@click.option(
    "--classifier", default="small-cnn", show_default=True, help="Classifier that defenses stand on."
)
@WEIGHTS
@click.option("--train-seed", type=int, default=0, show_default=True, help="Seed of the training.")
@DEVICE
@json_option("Print a JSON array.")
@user_errors
def command(
    specs: tuple[str, ...], dataset: str, classifier: str, weights: Path | None, train_seed: int, device: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Train classifiers and defenses into the store, e.g. `rbg train a c magnet`.

    Prints each one's accuracy on the test images; a defense's with its classifier behind it.
    """
    from robustbench_gan.engine.train import train_all
    from robustbench_gan.training.device import pick_device
    from robustbench_gan.training.store import Store
    from robustbench_gan.training.workshop import Workshop

    workshop = Workshop(Store(), pick_device(device), train_seed, weights)
    rows = train_all(specs, workshop, dataset=dataset, classifier=classifier)
    if as_json:
        click.echo(json.dumps(rows, indent=1))

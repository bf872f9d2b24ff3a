"""BPDA and the latent-space attack on Defense-GAN at the distance of Athalye et al. 2018, in its three readings.

Their README gives 55% accuracy at "l2 0.005" on MNIST and no unit. ||d||_2 / 784 = .005 is a distance of 3.92, a mean
squared error of .005 one of 1.98, ||d||_2 / sqrt(784) = .005 one of 0.14. BPDA is run at each of them; the latent-space
attack is minimal and is read at all three.

    rbg reproduce defense-gan-attack OUT "defense-gan:width=64,..." --samples 500 --steps 4

Every hundred images are a cell of their own, an ordinary record under OUT/results: the same command goes on
where it was stopped. Prints the table in Markdown of what is finished.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import torch

from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.cell.question import Planned
from robustbench_gan.engine import matrix
from robustbench_gan.engine.execute import execute
from robustbench_gan.engine.layout import lay_out
from robustbench_gan.nouns.record import Result
from robustbench_gan.nouns.statistics import interval
from robustbench_gan.training.device import pick_device
from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import Workshop

CHUNK = 100  # the engine's micro-batch on a CPU: fewer images would cost as much
READINGS = {"l2/784": 0.005 * 784, "mse": (0.005 * 784) ** 0.5, "l2/sqrt(784)": 0.005 * 784**0.5}


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.argument("defense")
@click.option("--classifier", default="small-cnn", show_default=True)
@click.option("--samples", default=500, show_default=True, help="Test images, a multiple of 100.")
@click.option("--steps", default=4, show_default=True, help="Steps of BPDA.")
@click.option("--manifold", default="manifold", show_default=True, help="The latent-space attack, a spec.")
@click.option("--only", type=click.Choice(["bpda", "manifold"]), help="One of the two attacks.")
@click.option("--device", default="cpu", show_default=True, help="auto, cpu or cuda.")
@click.option(
    "--reading", "readings", multiple=True, type=click.Choice(list(READINGS)), help="BPDA at these alone."
)
def main(
    out: Path, defense: str, classifier: str, samples: int, steps: int, manifold: str, only: str | None,
    device: str, readings: tuple[str, ...],
) -> None:  # fmt: skip
    """BPDA and the latent-space attack on Defense-GAN at the distance of Athalye et al. 2018, in three readings.

    Every hundred images are a record under OUT/results: the same command goes on where it was stopped.
    """
    torch.set_num_threads(1)
    workshop = Workshop(Store(), pick_device(device))
    common = {"defenses": [defense], "classifiers": [classifier], "samples": CHUNK, "norm": "l2"}
    bpda = {
        **common, "attacks": [f"bpda:steps={steps},random_start=false"],
        "eps": [eps for name, eps in READINGS.items() if name in readings or not readings],
    }  # fmt: skip
    blocks = {"bpda": bpda, "manifold": {**common, "attacks": [manifold]}}
    asked = matrix.Matrix(block=[block for name, block in blocks.items() if only in (None, name)])
    first = lay_out(asked, workshop)
    planned = [
        replace(item, cell=item.cell.model_copy(update={"first": item.cell.first + start}))
        for item in first
        for start in range(0, samples, CHUNK)
    ]

    def tell(_: Planned, result: Result, stored: bool) -> None:
        cell, seconds = result.cell, result.seconds
        if not stored:
            spent = f"crafting {seconds.crafting:.0f} s, judging {seconds.judging:.0f} s"
            what = f"{cell.attack} eps {cell.eps:g} from {cell.first}"
            click.echo(f"{what}: {result.status} {result.reason} {spent}", err=True)

    results = execute(
        planned,
        workshop,
        Settings(batch_size=CHUNK),
        out,
        run_cell=evaluate_cell,
        on_step=lambda step: None,
        on_result=tell,
    )
    click.echo(table(results))


def table(results: list[Result]) -> str:
    """The share of images right unperturbed and not fooled, with its 95% interval, by attack and reading."""
    lines = ["| attack | reading of 0.005 | l2 | robust accuracy | n | status |", "|---|---|---|---|---|---|"]
    clean = {r.cell.first: r.outcomes.clean[0] for r in results if r.outcomes}
    right = "".join(clean.values())
    lines.append(f"| none |  | 0 | {_share(bit == '1' for bit in right)} | {len(right)} | ok |")
    for attack in dict.fromkeys(r.cell.attack for r in results):
        for reading, eps in READINGS.items():
            chunks = [
                r
                for r in results
                if r.cell.attack == attack and r.cell.eps in (eps, float("inf")) and r.outcomes
            ]
            robust = [stands for r in chunks for stands in survivors(r, eps)]
            if robust:
                states = ", ".join(sorted({f"{r.status} {r.reason}".strip() for r in chunks}))
                name = attack.name
                lines.append(
                    f"| {name} | {reading} | {eps:.3g} | {_share(robust)} | {len(robust)} | {states} |"
                )
    return "\n".join(lines)


def survivors(result: Result, eps: float) -> list[bool]:
    """Of each image whether it was right unperturbed and not fooled within eps, under the first judge seed."""
    assert result.outcomes is not None
    seen = result.outcomes
    each = zip(seen.clean[0], seen.robust[0], seen.size[0], strict=True)
    return [clean == "1" and (robust == "1" or size > eps * (1 + 1e-6)) for clean, robust, size in each]


def _share(flags: object) -> str:
    bits = torch.tensor([float(flag) for flag in flags])  # type: ignore[attr-defined]
    return str(interval(bits.numpy(), "defense-gan-attack"))

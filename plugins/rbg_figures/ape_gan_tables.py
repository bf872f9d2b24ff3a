"""APE-GAN beside the errors its authors publish: seven gray-box attacks (their RQ1), clean and noisy images (RQ3).

    rbg reproduce ape-gan-tables OUT --classifier lenet --samples 500 --defense ape-gan:eps=0.3

RQ4 is the same command with `--defense "ape-gan:eps=0.3+adversarial-training"` and, for the trained classifier alone,
`--target adversarial-training`. The last table is both directions of a proof: gray-box C&W at three confidences, which
the purifier should withstand, and the adaptive white-box attack, which it should not. Every cell is an ordinary record
under OUT/results: the same command goes on where it was stopped. Prints Markdown.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.engine import matrix
from robustbench_gan.engine.execute import execute
from robustbench_gan.engine.layout import lay_out
from robustbench_gan.nouns.record import Result
from robustbench_gan.nouns.statistics import interval
from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import Workshop

# Attack, norm, eps, and the published errors in per cent on MNIST: target, APE-GAN (Shen et al. 2017).
ATTACKS: tuple[tuple[str, str, float, float, float], ...] = (
    ("lbfgs", "l2", 10.0, 93.4, 2.2),
    ("fgsm", "linf", 0.3, 96.3, 2.8),
    ("deepfool", "l2", 10.0, 97.1, 2.2),
    ("jsma", "l0", 784.0, 97.8, 38.6),
    ("cw", "l0", 784.0, 100.0, 27.0),
    ("cw:preset=fast", "l2", 10.0, 100.0, 1.5),
    ("cw", "linf", 1.0, 100.0, 1.2),
)
NOISE = (0.1, 0.2, 0.3)
KAPPA = (0, 10, 20)
ADAPTIVE = ("pgd:steps=40", "cw:preset=fast")
RADIUS = 3.0


def blocks(target: str, defense: str) -> dict[str, list[dict[str, Any]]]:
    """The cells of each table; errors of the target alone are those of the same images, white-box."""
    gray = {"defenses": [defense], "threats": ["gray-box"]}
    bare = {"defenses": [target], "threats": ["white-box"]}
    attacked = [{"attacks": [name], "norm": norm, "eps": [eps]} for name, norm, eps, _, _ in ATTACKS]
    noisy = {"attacks": ["noise"], "norm": "linf", "eps": list(NOISE)}
    confident = {"attacks": [f"cw:preset=fast,kappa={k}" for k in KAPPA], "norm": "l2", "eps": [10.0]}
    adaptive = {"attacks": list(ADAPTIVE), "norm": "l2", "eps": [RADIUS], "threats": ["white-box"]}
    return {
        "rq1": [{**side, **cell} for cell in attacked for side in (bare, gray)],
        "rq3": [{**side, **noisy} for side in (bare, gray)],
        "both directions": [{**gray, **confident}, {**gray, **adaptive}],
    }


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--defense", default="ape-gan", show_default=True)
@click.option("--target", default="none", show_default=True, help="What is attacked alone.")
@click.option("--classifier", default="lenet", show_default=True)
@click.option("--samples", default=500, show_default=True)
@click.option("--first", default=150, show_default=True, help="The first of the test images.")
@click.option("--table", "wanted", multiple=True, type=click.Choice(["rq1", "rq3", "both directions"]))
def main(
    out: Path, defense: str, target: str, classifier: str, samples: int, first: int, wanted: tuple[str, ...]
) -> None:
    """APE-GAN beside the errors its authors publish: gray-box attacks, noisy images, and both directions of a proof.

    Every cell is an ordinary record under OUT/results: the same command goes on where it was stopped.
    """
    torch.set_num_threads(1)
    workshop, common = Workshop(Store()), {"classifiers": [classifier], "samples": samples}
    for name, cells in blocks(target, defense).items():
        if wanted and name not in wanted:
            continue
        laid = lay_out(matrix.Matrix(block=[{**common, **cell} for cell in cells]), workshop)
        planned = [replace(p, cell=p.cell.model_copy(update={"first": first})) for p in laid]
        results = execute(
            planned,
            workshop,
            Settings(),
            out,
            run_cell=evaluate_cell,
            on_step=lambda step: None,
            on_result=lambda p, r, stored: _tell(r),
        )
        click.echo(f"\n{name}: {defense} on {classifier}, {samples} test images from {first} on\n")
        click.echo({"rq1": rq1, "rq3": rq3}.get(name, both_directions)(results))


def rq1(results: list[Result]) -> str:
    """Errors in per cent of target and defense under each attack, beside the published ones."""
    lines = [
        "| attack | norm | target, published | target | APE-GAN, published | APE-GAN |", "|---|---|---|---|---|---|"
    ]  # fmt: skip
    for row, (name, norm, _, target, ape) in enumerate(ATTACKS):
        alone, defended = results[2 * row : 2 * row + 2]
        lines.append(f"| {name} | {norm} | {target} | {error(alone)} | {ape} | {error(defended)} |")
    return "\n".join(lines)


def rq3(results: list[Result]) -> str:
    """Errors in per cent on clean images and on those with uniform noise; none are published."""
    alone, defended = results[: len(NOISE)], results[len(NOISE) :]
    lines = ["| images | target | APE-GAN |", "|---|---|---|"]
    lines.append(f"| clean | {error(alone[0], 'clean')} | {error(defended[0], 'clean')} |")
    for eps, bare, behind in zip(NOISE, alone, defended, strict=True):
        lines.append(f"| uniform noise, linf {eps} | {error(bare)} | {error(behind)} |")
    return "\n".join(lines)


def both_directions(results: list[Result]) -> str:
    """Robust accuracy under each attack that does not know the purifier, and within l2 3.0 that does."""
    lines = ["| attack | attacker | l2 | robust accuracy | status |", "|---|---|---|---|---|"]
    for at, result in enumerate(results):
        gray = at < len(KAPPA)
        within = None if gray else RADIUS
        lines.append(
            f"| {result.cell.attack} | {'gray-box' if gray else 'white-box'} | {within or 'any'} | "
            f"{_share(survivors(result, within))} | {result.status} |"
        )
    return "\n".join(lines)


def survivors(result: Result, within: float | None = None) -> list[bool]:
    """Of each image whether it is right unperturbed and not fooled (within l2 `within`), under the first judge seed."""
    if result.outcomes is None:
        return []
    seen = result.outcomes
    each = zip(seen.clean[0], seen.robust[0], seen.size[0], strict=True)
    return [
        clean == "1" and (robust == "1" or (within is not None and size > within * (1 + 1e-6)))
        for clean, robust, size in each
    ]


def error(result: Result, of: str = "robust") -> str:
    """The share of wrong answers in per cent, attacked or clean, or why there is none."""
    if result.outcomes is None:
        return f"{result.status} {result.reason}".strip()
    bits = getattr(result.outcomes, of)[0]
    return f"{100 * bits.count('0') / len(bits):.1f}"


def _share(flags: list[bool]) -> str:
    return str(interval([float(flag) for flag in flags], "ape-gan")) if flags else "none"


def _tell(result: Result) -> None:
    seconds = result.seconds
    click.echo(
        f"{result.cell.attack} {result.cell.norm}: {result.status} {result.reason} "
        f"crafting {seconds.crafting:.0f} s, judging {seconds.judging:.0f} s",
        err=True,
    )

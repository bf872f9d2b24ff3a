"""Accuracy and speed of Defense-GAN's projection engines on the same images, from the same initial codes.

    rbg reproduce projection-accuracy OUT.jsonl "defense-gan:width=64,..." --samples 1000

Each engine projects clean test images and the same under FGSM on the classifier alone. Every hundred images are a line
of OUT: the same command goes on where it was stopped, and with another --seed, which draws other initial codes, it adds
to what is there. Prints the table in Markdown of what is finished.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rbg_defenses._frozen import FrozenGenerator
from rbg_defenses._projection import Projection
from rbg_defenses.defense_gan import DefenseGAN
from torch import Tensor
from torch.nn import functional as F

from robustbench_gan.base.digests import module_digest
from robustbench_gan.base.machine import multiplies_bfloat16
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.nouns.statistics import interval
from robustbench_gan.training.device import pick_device
from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import Workshop

CHUNK = 100
ENGINES: dict[str, dict[str, Any]] = {
    "exact": {"bf16": False, "prune": False},
    "bf16": {"bf16": True, "prune": False},
    "pruned": {"bf16": False, "prune": True},
    "pruned, bf16": {"bf16": True, "prune": True},
}
Row = dict[str, Any]
Numbers = np.ndarray[Any, Any]


@click.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("defense")
@click.option("--classifier", default="small-cnn", show_default=True)
@click.option("--samples", default=1000, show_default=True, help="Test images, a multiple of 100.")
@click.option("--first", default=2000, show_default=True, help="The first of them.")
@click.option("--eps", default=0.1, show_default=True, help="Radius of FGSM.")
@click.option("--seed", default=0, show_default=True, help="Of the initial codes.")
@click.option("--engine", "engines", multiple=True, type=click.Choice(list(ENGINES)), help="These alone.")
@click.option("--device", default="cpu", show_default=True, help="auto, cpu or cuda.")
def main(
    out: Path, defense: str, classifier: str, samples: int, first: int, eps: float, seed: int,
    engines: tuple[str, ...], device: str,
) -> None:  # fmt: skip
    """Accuracy and seconds of the engines of Defense-GAN's projection on the same images, clean and under FGSM.

    Every hundred images are a line of OUT: the same command goes on where it was stopped.
    """
    workshop = Workshop(Store(), pick_device(device))
    chosen = engines or tuple(ENGINES)
    if any(ENGINES[engine]["bf16"] for engine in chosen) and not multiplies_bfloat16(workshop.device):
        raise click.UsageError("this processor has no bfloat16: name the engines to run by --engine.")
    system = workshop.defense("mnist", classifier, defense)
    if not isinstance(system, DefenseGAN):
        raise click.UsageError(f"{defense!r} has no projection: expected defense-gan with its parameters.")
    code = [module_digest(part) for part in (Projection, FrozenGenerator)]
    asked = {
        "defense": defense,
        "classifier": classifier,
        "eps": eps,
        "device": str(workshop.device),
        "code": code,
    }
    for start in range(first, first + samples, CHUNK):
        done = {row["engine"] for row in rows(out) if place(row) == (start, seed) and row["asked"] == asked}
        x, y = workshop.images("mnist", start, CHUNK)
        attacked = fgsm(system, x, y, eps)
        for engine in chosen:
            if engine not in done:
                row = {"engine": engine, "first": start, "seed": seed, "asked": asked}
                row |= project(system, replace(system.projection, **ENGINES[engine]), [x, attacked], y, seed)
                append(out, row)
                click.echo(f"{engine} from {start}: {row['seconds']:.0f} s", err=True)
    click.echo(table([row for row in rows(out) if row["asked"] == asked]))


def fgsm(system: DefenseGAN, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Images one signed step away, by the gradient of the classifier alone."""
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(system.base(leaf), y, reduction="sum"), leaf)
    return (x + eps * slope.sign()).clamp(0, 1)


@torch.no_grad()
def project(system: DefenseGAN, how: Projection, batches: list[Tensor], y: Tensor, seed: int) -> Row:
    """Which of the clean and of the attacked images are classified right, as "1" and "0", and the seconds of both."""
    kept, system.projection = system.projection, how
    seeds = sample_seeds(seed, "projection-accuracy", torch.arange(len(y), device=y.device))
    started = time.process_time() if y.device.type == "cpu" else time.perf_counter()
    answers = [system.core(system.purify(x, seeds)).argmax(dim=1).eq(y).cpu() for x in batches]
    ended = time.process_time() if y.device.type == "cpu" else time.perf_counter()
    system.projection = kept
    clean, attacked = ("".join("01"[int(right)] for right in answer) for answer in answers)
    return {"clean": clean, "attacked": attacked, "seconds": ended - started}


def append(path: Path, row: Row) -> None:
    """Write a line; one that was cut off before it stays a line of its own."""
    cut_off = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("\n" if cut_off else "") + json.dumps(row) + "\n")


def rows(path: Path) -> list[Row]:
    """What is in a file so far; a line that was cut off is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def place(row: Row) -> tuple[int, int]:
    """The first of a row's images and the seed of its initial codes."""
    return row["first"], row.get("seed", 0)


def table(found: list[Row]) -> str:
    """Accuracy by engine with its 95% interval, and how much it differs from `exact` on the same images.

    Over several seeds an image counts by its mean: n is images, and the intervals are over images.
    """
    by_engine: dict[str, dict[tuple[int, int], Row]] = defaultdict(dict)
    for row in found:
        by_engine[row["engine"]][place(row)] = row
    lines = [
        "| engine | s an image | clean | less `exact`, points | attacked | less `exact`, points | n |",
        "|---|---|---|---|---|---|---|",
    ]
    exact = by_engine.get("exact", {})
    for engine, own in by_engine.items():
        cells = []
        for kind in ("clean", "attacked"):
            right = {at: bits(row[kind]) for at, row in own.items()}
            less = {at: right[at] - bits(exact[at][kind]) for at in own.keys() & exact.keys()}
            cells += [str(interval(by_image(right), "projection-accuracy")), difference(by_image(less))]
        seconds = sum(row["seconds"] for row in own.values()) / (2 * CHUNK * len(own))
        seeds, images = len({seed for _, seed in own}), CHUNK * len({first for first, _ in own})
        n = f"{images}" if seeds == 1 else f"{images}, {seeds} seeds"
        lines.append(f"| {engine} | {seconds:.3f} | {' | '.join(cells)} | {n} |")
    return "\n".join(lines)


def by_image(outcomes: dict[tuple[int, int], Numbers]) -> Numbers:
    """Each image's mean over the seeds, from outcomes (100,) by the first image and the seed."""
    chunks = defaultdict(list)
    for (first, _), values in sorted(outcomes.items()):
        chunks[first].append(values)
    return np.concatenate([np.mean(values, axis=0) for values in chunks.values()] or [np.empty(0)])


def difference(less: Numbers) -> str:
    """The mean of paired differences (N,) in points, with the normal approximation's 95% interval; `–` of none."""
    if not len(less):
        return "–"
    if not less.any():
        return "0.0"
    half = 1.96 * less.std(ddof=1) / len(less) ** 0.5
    return f"{100 * less.mean():+.1f} [{100 * (less.mean() - half):+.1f}, {100 * (less.mean() + half):+.1f}]"


def bits(text: str) -> Numbers:
    """A string of "0" and "1" as an array of numbers."""
    return np.array([float(bit) for bit in text])

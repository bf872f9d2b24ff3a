"""Accuracy and speed of Defense-GAN's projection engines on the same images, from the same initial codes.

    python tools/projection_accuracy.py OUT.jsonl "defense-gan:width=64,..." --samples 1000

Each engine projects clean test images and the same under FGSM on the classifier alone. Every hundred images are a line
of OUT: the same command goes on where it was stopped. Prints the table in Markdown of what is finished.
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
from rbg_defenses._projection import Projection, has_bf16
from rbg_defenses.defense_gan import DefenseGAN
from torch import Tensor
from torch.nn import functional as F

from robustbench_gan import registry
from robustbench_gan.record import interval
from robustbench_gan.seeds import sample_seeds
from robustbench_gan.store import Store
from robustbench_gan.workshop import Workshop, pick_device

CHUNK = 100
ENGINES = {
    "exact": {"bf16": False, "prune": False},
    "bf16": {"bf16": True, "prune": False},
    "pruned": {"bf16": False, "prune": True},
    "pruned, bf16": {"bf16": True, "prune": True},
}
Row = dict[str, Any]


@click.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("defense")
@click.option("--classifier", default="small-cnn", show_default=True)
@click.option("--samples", default=1000, show_default=True, help="Test images, a multiple of 100.")
@click.option("--first", default=2000, show_default=True, help="The first of them.")
@click.option("--eps", default=0.1, show_default=True, help="Radius of FGSM.")
@click.option("--engine", "engines", multiple=True, type=click.Choice(list(ENGINES)), help="These alone.")
@click.option("--device", default="cpu", show_default=True, help="auto, cpu or cuda.")
def main(
    out: Path, defense: str, classifier: str, samples: int, first: int, eps: float, engines: tuple[str, ...],
    device: str,
) -> None:  # fmt: skip
    """Run what is not yet in OUT and print the table."""
    workshop = Workshop(Store(), pick_device(device))
    chosen = engines or tuple(ENGINES)
    if any(ENGINES[engine]["bf16"] for engine in chosen) and not has_bf16(workshop.device):
        raise click.UsageError("this processor has no bfloat16: name the engines to run by --engine.")
    system = workshop.defense("mnist", classifier, defense)
    if not isinstance(system, DefenseGAN):
        raise click.UsageError(f"{defense!r} has no projection: expected defense-gan with its parameters.")
    code = [registry.module_digest(part) for part in (Projection, FrozenGenerator)]
    asked = {
        "defense": defense,
        "classifier": classifier,
        "eps": eps,
        "device": str(workshop.device),
        "code": code,
    }
    for start in range(first, first + samples, CHUNK):
        done = {row["engine"] for row in rows(out) if row["first"] == start and row["asked"] == asked}
        x, y = workshop.images("mnist", start, CHUNK)
        attacked = fgsm(system, x, y, eps)
        for engine in chosen:
            if engine not in done:
                row = {"engine": engine, "first": start, "asked": asked}
                row |= project(system, replace(system.projection, **ENGINES[engine]), [x, attacked], y)
                append(out, row)
                click.echo(f"{engine} from {start}: {row['seconds']:.0f} s", err=True)
    click.echo(table([row for row in rows(out) if row["asked"] == asked]))


def fgsm(system: DefenseGAN, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Images one signed step away, by the gradient of the classifier alone."""
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(system.base(leaf), y, reduction="sum"), leaf)
    return (x + eps * slope.sign()).clamp(0, 1)


@torch.no_grad()
def project(system: DefenseGAN, how: Projection, batches: list[Tensor], y: Tensor) -> Row:
    """Which of the clean and of the attacked images are classified right, as "1" and "0", and the seconds of both."""
    kept, system.projection = system.projection, how
    seeds = sample_seeds(0, "projection-accuracy", torch.arange(len(y), device=y.device))
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


def table(found: list[Row]) -> str:
    """Accuracy by engine with its 95% interval, and how much it differs from `exact` on the same images."""
    by_engine: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in found:
        by_engine[row["engine"]][row["first"]] = row
    lines = [
        "| engine | s an image | clean | less `exact`, points | attacked | less `exact`, points | n |",
        "|---|---|---|---|---|---|---|",
    ]
    exact = by_engine.get("exact", {})
    for engine, own in by_engine.items():
        shared = sorted(own.keys() & exact.keys())
        cells = []
        for kind in ("clean", "attacked"):
            right = bits([own[at][kind] for at in sorted(own)])
            less = bits([own[at][kind] for at in shared]) - bits([exact[at][kind] for at in shared])
            cells += [str(interval(right, "projection-accuracy")), difference(less)]
        seconds = sum(row["seconds"] for row in own.values()) / (2 * CHUNK * len(own))
        lines.append(f"| {engine} | {seconds:.3f} | {' | '.join(cells)} | {CHUNK * len(own)} |")
    return "\n".join(lines)


def difference(less: np.ndarray[Any, Any]) -> str:
    """The mean of paired differences (N,) in points, with the normal approximation's 95% interval; `–` of none."""
    if not len(less):
        return "–"
    if not less.any():
        return "0.0"
    half = 1.96 * less.std(ddof=1) / len(less) ** 0.5
    return f"{100 * less.mean():+.1f} [{100 * (less.mean() - half):+.1f}, {100 * (less.mean() + half):+.1f}]"


def bits(texts: list[str]) -> np.ndarray[Any, Any]:
    """Strings of "0" and "1" as one array of numbers."""
    return np.array([float(bit) for text in texts for bit in text])


if __name__ == "__main__":
    main()

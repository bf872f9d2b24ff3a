"""A record, printed for people."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from rich.text import Text

from robustbench_gan.base.errors import UsageError, one_line, told
from robustbench_gan.base.terminal import console_for, folded
from robustbench_gan.flags import CATALOGUE
from robustbench_gan.leaderboard.console import console_table
from robustbench_gan.leaderboard.detected import FIGURES, figures
from robustbench_gan.nouns.record import Detection, Result
from robustbench_gan.results.kept import examples_of
from robustbench_gan.results.stored import digest

NAME = 17  # columns for the name of a fact


def print_result(result: Result, path: Path | None = None) -> None:
    """One result: its row, what the attacker knew, controls, flags with their explanation, time.

    With the file it was read from, also whether the examples that were kept beside it are the ones it speaks of.
    """
    console = console_for(stderr=False)
    console.print(console_table([result]))
    for name, value in _facts(result, path).items():
        for line in fact(name, value, console.width):
            console.print(line, soft_wrap=True)
    if result.detection:
        for line in detection(result.detection):
            console.print(line)
    for flag in result.flags:
        evidence = ", ".join(f"{k} {v}" for k, v in flag.evidence.items())
        console.print(Text(told(f"{flag.severity}: {flag.id} ({evidence})"), style="yellow"))
        explained = CATALOGUE[flag.id].explanation if flag.id in CATALOGUE else flag.message
        console.print(Text(f"  {told(explained)}"))


def _facts(result: Result, path: Path | None) -> dict[str, str]:
    """What there is to say of a result, by name; empty where it has nothing of a kind."""
    cell = result.cell
    return {
        "data set": str(cell.dataset), "classifier": str(cell.classifier), "defense": str(cell.defense),
        "attack": str(cell.attack), "threat model": str(cell.threat), "goal": cell.goal,
        "budget": f"{cell.norm} {cell.eps:g}",
        "images": f"test {cell.first} to {cell.first + cell.samples - 1}, {cell.judge_seeds} judge seeds",
        "status": result.status + (f": {result.reason}" if result.reason else ""),
        "gradients": ", ".join(result.gradients),
        "clean accuracy": ", ".join(f"{k} {v:.4f}" for k, v in result.controls.items()),
        "on the examples": ", ".join(f"{k} {v:.4f}" for k, v in result.attacked.items()),
        "distortion": "; ".join(
            f"{norm} mean {s.mean:.4g}, median {s.median:.4g}, max {s.max:.4g}" for norm, s in result.distortion.items()
        ),
        "zero gradients": ", ".join(f"{k} {v:.4f}" for k, v in result.zero_gradients.items()),
        "substitute": ", ".join(f"{k} {v}" for k, v in result.substitute.items()),
        "trained": ", ".join(f"{k} {v}" for k, v in result.trained.items()),
        "queries": ", ".join(f"{k} {v}" for k, v in result.queries.items()),
        "attacked copy": ", ".join(f"{k} {v}" for k, v in result.attacked_copy.items()),
        "seconds": ", ".join(f"{k} {v:.1f}" for k, v in result.seconds.model_dump().items()),
        "hardware": ", ".join(f"{k} {v}" for k, v in result.hardware.items()),
        "versions": ", ".join(f"{k} {v}" for k, v in result.versions.items()),
        "weights": ", ".join(f"{k} {v}" for k, v in result.weights.items()),
        "traceback": "\n".join(map(one_line, result.traceback)),
        "examples": _examples(result, path),
        "fingerprint": result.fingerprint,
        "digest": digest(result),
    }  # fmt: skip


def _examples(result: Result, path: Path | None) -> str:
    """Where the examples lie and whether they are the record's; empty where none were kept."""
    if result.adversarial is None or path is None:
        return ""
    try:
        examples, _ = examples_of(path, result)
    except UsageError as error:
        return str(error)
    shape = " x ".join(map(str, examples.shape))
    return f"{result.adversarial.file}, {shape}, digest {result.adversarial.digest} as the record says"


def fact(name: str, value: str, width: int) -> Iterator[Text]:
    """A fact beside its name, or below it where something in it that must not be broken has no room there."""
    if not value:
        return
    texts, room = [told(line) for line in value.split("\n")], width - NAME
    beside = max(len(piece) for text in texts for piece in re.split(r"(?<=,)| ", text)) <= room
    lines = [line for text in texts for line in folded(text, room if beside else width - 2)]
    first = f"{name:{NAME}}" if beside else name
    yield Text(first, style="bold").append(lines.pop(0) if beside else "", style="not bold")
    for line in lines:
        yield Text(" " * (NAME if beside else 2) + line)


def detection(found: Detection) -> Iterator[Text]:
    """A line a detector and one for all together: the ROC's area, rates at fixed FPR, shares rejected."""
    yield Text(f"Detection: {found.clean} clean images, {found.positive} perturbed examples", style="bold")
    for detector in (*found.detectors, found.together):
        shown = ", ".join(map(" ".join, zip(FIGURES, figures(detector), strict=True)))
        yield Text(f"{one_line(detector.name)}: {shown}")

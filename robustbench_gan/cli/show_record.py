"""A record, printed for people."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from robustbench_gan.base.errors import UsageError, one_line, told
from robustbench_gan.base.terminal import console_for
from robustbench_gan.flags import CATALOGUE
from robustbench_gan.leaderboard import console_table
from robustbench_gan.leaderboard.detected import FIGURES, figures
from robustbench_gan.nouns.record import Detection, Result
from robustbench_gan.results.kept import examples_of
from robustbench_gan.results.stored import digest


def print_result(result: Result, path: Path | None = None) -> None:
    """One result: its row, what the attacker knew, controls, flags with their explanation, time.

    With the file it was read from, also whether the examples that were kept beside it are the ones it speaks of.
    """
    console = console_for(stderr=False)
    console.print(console_table([result]))
    cell = result.cell
    facts = {
        "data set": cell.dataset, "classifier": cell.classifier, "defense": cell.defense,
        "attack": cell.attack, "threat model": cell.threat, "goal": cell.goal,
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
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        if value:
            table.add_row(Text(name, style="bold"), Text("\n".join(map(told, value.split("\n")))))
    console.print(table)
    if result.detection:
        console.print(detection_table(result.detection))
    for flag in result.flags:
        evidence = ", ".join(f"{k} {v}" for k, v in flag.evidence.items())
        console.print(Text(told(f"{flag.severity}: {flag.id} ({evidence})"), style="yellow"))
        explained = CATALOGUE[flag.id].explanation if flag.id in CATALOGUE else flag.message
        console.print(Text(f"  {told(explained)}"))


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


def detection_table(found: Detection) -> Table:
    """A row a detector and one for all together: the ROC's area, rates at fixed FPR, shares rejected."""
    title = f"Detection: {found.clean} clean images, {found.positive} perturbed examples"
    table = Table("detector", *FIGURES, title=Text(title))
    for detector in (*found.detectors, found.together):
        table.add_row(Text(one_line(detector.name)), *map(Text, figures(detector)))
    return table

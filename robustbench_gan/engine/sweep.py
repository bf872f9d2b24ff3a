"""A sweep: one defense at many settings of its parameters, each judged as an ordinary cell, against one fixed attacker.

In black-box the attacker's substitute learns from one defense, the reference, and is attacked for all points: these
then differ in the defense alone, and its queries are paid once.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from robustbench_gan.base import stopping
from robustbench_gan.base.errors import UsageError, told
from robustbench_gan.base.files import keep_replaced, write_text_atomically
from robustbench_gan.cell.question import Planned
from robustbench_gan.contracts.threat import ThreatModel
from robustbench_gan.engine.layout import lay_out
from robustbench_gan.engine.matrix import Matrix, read_matrix
from robustbench_gan.engine.points import Point
from robustbench_gan.engine.sweep_figure import figure
from robustbench_gan.engine.sweep_table import as_csv, markdown, recorded, row
from robustbench_gan.nouns.spec import Chain, Classifier, Spec
from robustbench_gan.training.store import Artifact
from robustbench_gan.training.workshop import Workshop

FILES = ("sweep.csv", "sweep.md", "sweep.png")


@dataclass
class PinnedWorkshop(Workshop):
    """A workshop in which every substitute learns from `reference`, whichever defense is judged."""

    reference: Chain | None = None

    def substitute(
        self, dataset: Spec | str, classifier: Classifier | str, defense: Chain | str, threat: ThreatModel
    ) -> tuple[nn.Module, Artifact]:
        """The one substitute."""
        return super().substitute(dataset, classifier, self.reference or defense, threat)


@dataclass(frozen=True)
class Sweep:
    """What is varied, under which attack, and the planned cell of each point."""

    asked: Matrix
    points: tuple[Point, ...]
    planned: tuple[Planned, ...]
    reference: Chain | None

    @property
    def cells(self) -> list[Planned]:
        """The cells without repetition: two points may be one system."""
        return list({item.cell.fingerprint: item for item in self.planned}.values())


def matrix(options: Mapping[str, Any]) -> Matrix:
    """The matrix of one cell that every point fills its defense into. Raises UsageError for a bad value."""
    return read_matrix("", "sweep", dict(options))


def plan(asked: Matrix, found: Sequence[Point], reference: Chain, workshop: PinnedWorkshop) -> Sweep:
    """Lay out one cell a point. In black-box its threat model then says which defense the substitute learns from.

    Raises UsageError for a bad spec, and for the dynamic protocol, whose substitute is trained beside each generator.
    """
    planned: list[Planned] = []
    pinned: Chain | None = None
    for point in found:
        (item,) = lay_out(asked.model_copy(update={"defenses": [point.spec]}), workshop)
        planned.append(item)
    if planned and planned[0].threat.name == "black-box" and planned[0].threat.oracle == "defended":
        if planned[0].threat.substitute == "dynamic":
            raise UsageError(
                "a sweep needs a substitute that is trained once: papernot or static, not dynamic."
            )
        (base,) = lay_out(asked.model_copy(update={"defenses": [reference]}), workshop)
        pinned = base.cell.defense
        planned = [_pinned(item, pinned, base.cell.identity["defense"]) for item in planned]
    workshop.reference = pinned
    return Sweep(asked, tuple(found), tuple(planned), pinned)


def _pinned(item: Planned, reference: Chain, code: str) -> Planned:
    """The cell with the substitute's oracle in the text of its threat model, and so in its fingerprint."""
    threat = item.cell.threat.replaced({"reference": str(reference)})
    identity = {**item.cell.identity, "reference": code}
    cell = item.cell.model_copy(update={"threat": threat, "identity": identity})
    return replace(item, cell=cell, reference=reference)


@contextmanager
def written(sweep: Sweep, out: Path) -> Iterator[None]:
    """Write OUT/sweep.md, sweep.csv and, with matplotlib, sweep.png of what is finished, however the block ends."""
    try:
        with stopping.closing(lambda: write(sweep, out)):
            yield
    finally:
        write(sweep, out)


def write(sweep: Sweep, out: Path) -> None:
    """Write the table, its CSV and the figure of what is finished in OUT."""
    import click

    results = [recorded(item, out) for item in sweep.planned]
    if not any(results):
        return
    rows = [row(point, result) for point, result in zip(sweep.points, results, strict=True)]
    kept = _keep_another(rows, out)
    drawn = figure(sweep, rows, out / "sweep.png")
    write_text_atomically(out / "sweep.csv", as_csv(sweep, rows))
    write_text_atomically(out / "sweep.md", markdown(sweep, rows, "sweep.png" if drawn else None))
    said = "sweep.md, sweep.csv, sweep.png" if drawn else "sweep.md, sweep.csv"
    more = "" if drawn else "; no figure: matplotlib is missing (pip install 'robustbench-gan[plots]')"
    click.echo(told(f"sweep: {said} in {out}{more}"), err=True)
    if kept:
        click.echo(f"sweep: the tables of another sweep that were there are kept in {kept}", err=True)


def _keep_another(rows: Sequence[dict[str, Any]], out: Path) -> Path | None:
    """Keep the table of another sweep, of which a point is none of this one's; the directory it is in."""
    path = out / "sweep.csv"
    if not path.exists():
        return None
    there = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8", errors="replace")))
    if {each.get("fingerprint") or "" for each in there} <= {each["fingerprint"] for each in rows} | {""}:
        return None
    kept = [keep_replaced(file, out) for name in FILES if (file := out / name).exists()]
    return kept[0].parent

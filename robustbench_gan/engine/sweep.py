"""A sweep: one defense at many settings of its parameters, each judged as an ordinary cell, against one fixed attacker.

In black-box the attacker's substitute learns from one defense, the reference, and is attacked for all points: these
then differ in the defense alone, and its queries are paid once.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from robustbench_gan.base import stopping
from robustbench_gan.base.errors import UsageError, one_line, told, unknown
from robustbench_gan.base.files import keep_replaced, write_atomically, write_text_atomically
from robustbench_gan.cell.question import Planned
from robustbench_gan.contracts.threat import ThreatModel
from robustbench_gan.engine.matrix import Matrix, lay_out, read_matrix
from robustbench_gan.engine.plan import result_path
from robustbench_gan.leaderboard.flat import clean_interval, csv_text, measured, robust_interval
from robustbench_gan.leaderboard.labels import short_labels
from robustbench_gan.leaderboard.pipes import pipe_table
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.record import Interval, Result
from robustbench_gan.nouns.spec import Chain, Spec, as_params
from robustbench_gan.results.stored import read_result
from robustbench_gan.training.store import Artifact
from robustbench_gan.training.workshop import Workshop

FILES = ("sweep.csv", "sweep.md", "sweep.png")
# Commas inside one pair of parentheses belong to a value: attack=pgd(steps=10,step=0.05),fgsm
_VALUE = re.compile(r"(?:[^,()]|\([^()]*\))+")


@dataclass(frozen=True)
class Axis:
    """One parameter and the values it takes, as written: `iterations=25,50,100`."""

    name: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Axis:
        """Read `NAME=v1,v2,...`. Raises UsageError for anything else and for a value given twice."""
        name, equals, rest = text.partition("=")
        values = tuple(value.strip() for value in _VALUE.findall(rest))
        if (
            not equals
            or not name.strip()
            or not values
            or ",".join(values) != re.sub(r"\s*,\s*", ",", rest.strip())
        ):
            raise UsageError(f"--over {text}: expected NAME=value,value, as in iterations=25,50,100.")
        if len(set(values)) != len(values):
            raise UsageError(f"--over {text}: a value is given twice.")
        return cls(name.strip(), values)


@dataclass(frozen=True)
class Point:
    """One defense of a sweep: what it was made from, the values given to it, and its whole spec.

    `axis` is the parameter varied, when parameters are varied one at a time.
    """

    defense: str
    values: tuple[tuple[str, str], ...]
    spec: str
    axis: str = ""


def points(defenses: Sequence[str], axes: Sequence[Axis], *, one_at_a_time: bool) -> list[Point]:
    """Every defense at every combination of values, or at the values of one axis at a time.

    Raises UsageError for a parameter that a defense does not have.
    """
    if len({axis.name for axis in axes}) != len(axes):
        raise UsageError("--over: a parameter is given twice; put all of its values into one list.")
    found = []
    for defense in defenses:
        chosen: list[tuple[str, tuple[tuple[str, str], ...]]]
        if one_at_a_time:
            chosen = [(axis.name, ((axis.name, value),)) for axis in axes for value in axis.values]
        else:
            chosen = [
                ("", tuple(zip((a.name for a in axes), combination, strict=True)))
                for combination in product(*(axis.values for axis in axes))
            ]
        found += [Point(defense, values, varied(defense, values), axis) for axis, values in chosen]
    return found


def varied(defense: str, values: Iterable[tuple[str, str]]) -> str:
    """A defense's spec with some parameters set anew; of a composition, those of the one stage that has them.

    `stage.name` names the stage where several have it. Raises UsageError where none has, or several.
    """
    chain = list(Chain.parse(defense))
    for name, value in values:
        stage, _, parameter = name.rpartition(".")
        known = [registry.parameters(registry.load("defenses", spec.name)) for spec in chain]
        owners = [
            n for n, spec in enumerate(chain) if parameter in known[n] and stage in ("", spec.name)
        ]  # fmt: skip
        if not owners:
            raise unknown(f"parameter of {defense!r} in --over:", name, {p for each in known for p in each})
        if len(owners) > 1:
            raise UsageError(
                f"--over {name}: several stages of {defense} have it; write {chain[owners[0]].name}.{parameter}=."
            )
        spec, (given,) = chain[owners[0]], Spec.of(f"x:{parameter}={value}").params
        chain[owners[0]] = Spec(spec.name, as_params({**dict(spec.params), **dict([given])}))
    return "+".join(map(str, chain))


@dataclass
class PinnedWorkshop(Workshop):
    """A workshop in which every substitute learns from `reference`, whichever defense is judged."""

    reference: str = ""

    def substitute(
        self, dataset: str, classifier: str, defense: str, threat: ThreatModel
    ) -> tuple[nn.Module, Artifact]:
        """The one substitute."""
        return super().substitute(dataset, classifier, self.reference or defense, threat)


@dataclass(frozen=True)
class Sweep:
    """What is varied, under which attack, and the planned cell of each point."""

    asked: Matrix
    points: tuple[Point, ...]
    planned: tuple[Planned, ...]
    reference: str

    @property
    def cells(self) -> list[Planned]:
        """The cells without repetition: two points may be one system."""
        return list({item.cell.fingerprint: item for item in self.planned}.values())


def matrix(options: Mapping[str, Any]) -> Matrix:
    """The matrix of one cell that every point fills its defense into. Raises UsageError for a bad value."""
    return read_matrix("", "sweep", dict(options))


def plan(asked: Matrix, found: Sequence[Point], reference: str, workshop: PinnedWorkshop) -> Sweep:
    """Lay out one cell a point. In black-box its threat model then says which defense the substitute learns from.

    Raises UsageError for a bad spec, and for the dynamic protocol, whose substitute is trained beside each generator.
    """
    planned: list[Planned] = []
    pinned = ""
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


def _pinned(item: Planned, reference: str, code: str) -> Planned:
    """The cell with the substitute's oracle in the text of its threat model, and so in its fingerprint."""
    spec = Spec.of(item.cell.threat)
    threat = str(Spec(spec.name, as_params({**dict(spec.params), "reference": reference})))
    identity = {**item.cell.identity, "reference": code}
    return replace(item, cell=item.cell.model_copy(update={"threat": threat, "identity": identity}))


def run(
    sweep: Sweep,
    workshop: PinnedWorkshop,
    *,
    out: Path,
    batch_size: int,
    as_json: bool,
    strict: bool = False,
    cell_timeout: float | None = None,
) -> int:
    """Run what is not finished, then write OUT/sweep.md, sweep.csv and, with matplotlib, sweep.png.

    Interrupted, it writes them for what is finished. `strict` and `cell_timeout` are those of a run. Returns the exit
    code.
    """
    from robustbench_gan.engine import run as runs

    try:
        with stopping.closing(lambda: write(sweep, out)):
            return runs.run(
                sweep.asked, sweep.cells, workshop, out=out, batch_size=batch_size, as_json=as_json,
                strict=strict, cell_timeout=cell_timeout,
            )  # fmt: skip
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


def recorded(item: Planned, out: Path) -> Result | None:
    """What is known of a point, failures included; None where it was never reached or another code answered."""
    path = result_path(out, item)
    found = read_result(path) if path.exists() else None
    return found if found and found.fingerprint == item.cell.fingerprint else None


def row(point: Point, result: Result | None) -> dict[str, Any]:
    """One point as flat values; None for what does not exist."""
    flat: dict[str, Any] = {"defense": point.defense, "varied": point.axis, **dict(point.values)}
    shown = result if result is not None and measured(result) is not None else None
    clean = clean_interval(shown) if shown else None
    robust = robust_interval(shown, shown.budgets[0] if shown.budgets else shown.cell.eps) if shown else None
    flat |= {"n": result.cell.samples if result else None}
    flat |= {**_interval("clean", clean), **_interval("robust", robust)}
    flat |= {f"clean_{name}": value for name, value in (shown.controls if shown else {}).items()}
    flat["seconds_per_image"] = shown.defense_seconds_per_image if shown else None
    flat["status"] = result.status if result else "missing"
    flat["reason"] = result.reason if result else ""
    flat["flags"] = " ".join(flag.id for flag in result.flags) if result else ""
    return flat | {"spec": point.spec, "fingerprint": result.fingerprint if result else ""}


def _interval(name: str, value: Interval | None) -> dict[str, float | None]:
    low, high = (value.low, value.high) if value else (None, None)
    return {name: value.value if value else None, f"{name}_low": low, f"{name}_high": high}


def as_csv(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> str:
    """One line a point; a column for everything that any point has, what was varied first."""
    varied_names = {name for point in sweep.points for name, _ in point.values}
    text = io.StringIO()
    columns = list(dict.fromkeys(name for each in rows for name in each))
    columns.sort(key=lambda name: 0 if name in ("defense", "varied") else 1 if name in varied_names else 2)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_text, columns))
    writer.writerows([csv_text(each.get(name, "")) for name in columns] for each in rows)
    return text.getvalue()


def groups(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows by defense and by the parameter varied alone, in order: one table each."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in rows:
        found.setdefault((each["defense"], each["varied"]), []).append(each)
    return found


def markdown(sweep: Sweep, rows: Sequence[dict[str, Any]], image: str | None) -> str:
    """What was asked, and one table for each defense and parameter varied."""
    cell = sweep.planned[0].cell
    lines = [
        "# Sweep", "",
        f"- data set `{cell.dataset}`, classifier `{cell.classifier}`",
        f"- attack `{cell.attack}`, {cell.goal}, {cell.norm} {_eps(sweep, cell.eps)}",
        f"- threat model `{_threat(cell.threat)}`",
        f"- test images {cell.first} to {cell.first + cell.samples - 1}, {cell.judge_seeds} judge seeds; "
        "95% intervals in brackets",
    ]  # fmt: skip
    if sweep.reference:
        lines.append(f"- one substitute for all points; it learnt from `{sweep.reference}`")
    if image:
        lines += ["", f"![accuracy against each parameter]({image})"]
    for (defense, axis), members in groups(rows).items():
        names = [axis] if axis else _names(members, sweep)
        header = [*names, "clean", "robust", "s an image", "status"]
        lines += ["", f"## `{defense}`" + (f", {axis} varied" if axis else ""), ""]
        lines.append(pipe_table(header, [_cells(each, names) for each in members]))
    return "\n".join(lines) + "\n"


def _threat(text: str) -> str:
    """A threat model without the substitute's reference, which has its own line."""
    spec = Spec.of(text)
    return str(Spec(spec.name, tuple(pair for pair in spec.params if pair[0] != "reference")))


def _eps(sweep: Sweep, eps: float) -> str:
    return ", ".join(f"{b:g}" for b in sweep.planned[0].budgets) or f"{eps:g}"


def _names(members: Sequence[dict[str, Any]], sweep: Sweep) -> list[str]:
    known = {name for point in sweep.points for name, _ in point.values}
    return [name for name in members[0] if name in known]


def _cells(each: dict[str, Any], names: Sequence[str]) -> list[str]:
    def number(name: str) -> str:
        value, low, high = (each[f"{name}{end}"] for end in ("", "_low", "_high"))
        return "" if value is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"

    seconds = each["seconds_per_image"]
    why = each["reason"] or each["flags"]
    said = each["status"] + (f": {why}" if why else "")
    cells = [*(str(each[n]) for n in names), number("clean"), number("robust")]
    return [*cells, "" if seconds is None else f"{seconds:.3g}", said.replace("|", "\\|").replace("\n", " ")]


def figure(sweep: Sweep, rows: Sequence[dict[str, Any]], path: Path) -> bool:
    """Accuracy against each parameter, a panel each; False where matplotlib is not installed.

    Crossed, the first parameter is the axis and each combination of the others, as each defense, a line.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    axes = list(dict.fromkeys(each["varied"] for each in rows))
    drawing = Figure(figsize=(5.5 * len(axes), 4.2), layout="constrained")
    for panel, axis in zip(drawing.subplots(1, len(axes), squeeze=False)[0], axes, strict=True):
        members = [each for each in rows if each["varied"] == axis]
        name, *others = [axis] if axis else _names(members, sweep)
        lines: dict[str, list[dict[str, Any]]] = {}
        called = short_labels({each["defense"] for each in members})
        for each in members:
            parts = [called[each["defense"]]] if len(called) > 1 else []
            lines.setdefault(", ".join([*parts, *(f"{o} {each[o]}" for o in others)]), []).append(each)
        _panel(panel, name, lines)
    content = io.BytesIO()
    drawing.savefig(content, format="png", dpi=150, metadata={"Software": None})
    write_atomically(path, content.getvalue())
    return True


def _panel(panel: Any, name: str, lines: dict[str, list[dict[str, Any]]]) -> None:
    """One panel: robust accuracy with its interval in full, clean accuracy dashed in the same colour."""
    values = list(dict.fromkeys(each[name] for members in lines.values() for each in members))
    places = _places(values)
    for at, (label, members) in enumerate(lines.items()):
        shown = sorted((e for e in members if e["status"] == "ok"), key=lambda e: places[e[name]])
        x = [places[e[name]] for e in shown]
        robust = [e["robust"] for e in shown]
        colour, prefix = f"C{at}", f"{one_line(label, 60)}: " if label else ""
        panel.plot(x, robust, "o-", color=colour, label=f"{prefix}attacked")
        panel.fill_between(
            x, [e["robust_low"] for e in shown], [e["robust_high"] for e in shown], color=colour, alpha=0.15
        )
        panel.plot(x, [e["clean"] for e in shown], "s--", color=colour, alpha=0.7, label=f"{prefix}clean")
    if min(places.values()) > 0 and max(places.values()) >= 8 * min(places.values()):
        panel.set_xscale("log")
    panel.set_xticks(list(places.values()), list(places))
    panel.minorticks_off()
    panel.set(xlabel=name, ylabel="accuracy", ylim=(0, 1.02))
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small").set_in_layout(False)  # a long one must not squeeze what is drawn


def _places(values: Sequence[str]) -> dict[str, float]:
    """Where values stand on an axis: numbers at themselves, anything else in a row."""
    try:
        return {value: float(value) for value in values}
    except ValueError:
        return {value: float(at) for at, value in enumerate(values, 1)}

"""What a sweep found, point by point: rows, and what is written of them in CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_gan.cell.question import Planned
from robustbench_gan.engine.plan import result_path
from robustbench_gan.engine.points import Point
from robustbench_gan.leaderboard.flat import clean_interval, measured, robust_interval
from robustbench_gan.leaderboard.pipes import pipe_table
from robustbench_gan.leaderboard.spreadsheet import csv_text
from robustbench_gan.nouns.record import Result
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.nouns.statistics import Interval
from robustbench_gan.results.stored import read_result

if TYPE_CHECKING:
    from robustbench_gan.engine.sweep import Sweep


def recorded(item: Planned, out: Path) -> Result | None:
    """What is known of a point, failures included; None where it was never reached or another code answered."""
    path = result_path(out, item)
    found = read_result(path) if path.exists() else None
    return found if found and found.fingerprint == item.cell.fingerprint else None


def row(point: Point, result: Result | None) -> dict[str, Any]:
    """One point as flat values; None for what does not exist."""
    flat: dict[str, Any] = {"defense": str(point.defense), "varied": point.axis, **dict(point.values)}
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
    return flat | {"spec": str(point.spec), "fingerprint": result.fingerprint if result else ""}


def _interval(name: str, value: Interval | None) -> dict[str, float | None]:
    low, high = (value.low, value.high) if value else (None, None)
    return {name: value.value if value else None, f"{name}_low": low, f"{name}_high": high}


def as_csv(sweep: Sweep, rows: Sequence[dict[str, Any]]) -> str:
    """One line a point; a column for everything that any point has, what was varied first."""
    own = {name for point in sweep.points for name, _ in point.values}
    text = io.StringIO()
    columns = list(dict.fromkeys(name for each in rows for name in each))
    columns.sort(key=lambda name: 0 if name in ("defense", "varied") else 1 if name in own else 2)
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
        names = [axis] if axis else varied_names(members, sweep)
        header = [*names, "clean", "robust", "s an image", "status"]
        lines += ["", f"## `{defense}`" + (f", {axis} varied" if axis else ""), ""]
        lines.append(pipe_table(header, [_cells(each, names) for each in members]))
    return "\n".join(lines) + "\n"


def _threat(spec: Spec) -> Spec:
    """A threat model without the substitute's reference, which has its own line."""
    return Spec(spec.name, tuple(pair for pair in spec.params if pair[0] != "reference"))


def _eps(sweep: Sweep, eps: float) -> str:
    return ", ".join(f"{b:g}" for b in sweep.planned[0].budgets) or f"{eps:g}"


def varied_names(members: Sequence[dict[str, Any]], sweep: Sweep) -> list[str]:
    """The parameters that these points were given values of, in order."""
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

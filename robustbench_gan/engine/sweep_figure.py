"""The figure of a sweep: accuracy against each parameter that was varied."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_gan.base.errors import one_line
from robustbench_gan.base.files import write_atomically
from robustbench_gan.engine.sweep_table import varied_names
from robustbench_gan.leaderboard.labels import short_labels

if TYPE_CHECKING:
    from robustbench_gan.engine.sweep import Sweep


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
        name, *others = [axis] if axis else varied_names(members, sweep)
        lines: dict[str, list[dict[str, Any]]] = {}
        called = short_labels(point.defense for point in sweep.points if point.axis == axis)
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
    at_value = places(values)
    for at, (label, members) in enumerate(lines.items()):
        shown = sorted((e for e in members if e["status"] == "ok"), key=lambda e: at_value[e[name]])
        x = [at_value[e[name]] for e in shown]
        robust = [e["robust"] for e in shown]
        colour, prefix = f"C{at}", f"{one_line(label, 60)}: " if label else ""
        panel.plot(x, robust, "o-", color=colour, label=f"{prefix}attacked")
        panel.fill_between(
            x, [e["robust_low"] for e in shown], [e["robust_high"] for e in shown], color=colour, alpha=0.15
        )
        panel.plot(x, [e["clean"] for e in shown], "s--", color=colour, alpha=0.7, label=f"{prefix}clean")
    if min(at_value.values()) > 0 and max(at_value.values()) >= 8 * min(at_value.values()):
        panel.set_xscale("log")
    panel.set_xticks(list(at_value.values()), list(at_value))
    panel.minorticks_off()
    panel.set(xlabel=name, ylabel="accuracy", ylim=(0, 1.02))
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small").set_in_layout(False)  # a long one must not squeeze what is drawn


def places(values: Sequence[str]) -> dict[str, float]:
    """Where values stand on an axis: numbers at themselves, anything else in a row."""
    try:
        return {value: float(value) for value in values}
    except ValueError:
        return {value: float(at) for at, value in enumerate(values, 1)}

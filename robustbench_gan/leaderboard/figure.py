"""The leaderboard as one picture: an SVG of each defense's worst cases with their intervals. No torch, no matplotlib.

The same results give the same bytes: nothing is measured from fonts, and coordinates have one decimal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from robustbench_gan.base.errors import one_line
from robustbench_gan.leaderboard.labels import Labels
from robustbench_gan.leaderboard.overview import Grid, clean, grids
from robustbench_gan.nouns.statistics import Interval

if TYPE_CHECKING:
    from robustbench_gan.leaderboard.headline import Standing, Table

WIDTH = 760
LEFT, RIGHT = 190, 30  # of the axis, for names and air
LINE, GAP, HEAD, FOOT = 13, 14, 64, 46  # heights: of a series, between defenses, above and below them
LONGEST = 26  # characters of a defense's name
INK, FAINT, PAPER = "#24292f", "#d0d7de", "#ffffff"
CLEAN = "#8c959f"
COLOURS = {
    "black-box": "#0969da", "query": "#1b7c83", "gray-box": "#bf8700", "gray-box:copy": "#953800",
    "white-box": "#cf222e", "seed-known": "#8250df",
}  # fmt: skip
FOOTNOTE = (
    "Dots: worst case over attacks, for each image; bars: 95% intervals. Hollow: some attack is missing."
)


def svg(tables: Iterable[Table], labels: Labels) -> str:
    """One picture of all tables: a panel for each data set, classifier, goal and budget."""
    panels, top = [], 0.0
    for grid in grids(tables, labels):
        drawn, height = _panel(grid, labels, top)
        panels += drawn
        top += height
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top:.0f}" viewBox="0 0 {WIDTH} {top:.0f}" '
        f'role="img" font-family="Helvetica, Arial, DejaVu Sans, sans-serif" font-size="12" fill="{INK}">'
    )
    title = "<title>Worst-case accuracy of each defense under each threat model</title>"
    paper = f'<rect width="{WIDTH}" height="{top:.0f}" fill="{PAPER}"/>'
    return "\n".join([head, title, paper, *panels, "</svg>"]) + "\n"


def _panel(grid: Grid, labels: Labels, top: float) -> tuple[list[str], float]:
    """The parts of a panel that begins at `top`, and its height."""
    series = [("clean", CLEAN), *((t.setting.threat, _colour(t)) for t in grid.tables)]
    block = LINE * len(series) + GAP
    bottom = top + HEAD + block * len(grid.rows)
    parts = [_text(16, top + 24, " · ".join(grid.heading), bold=True), *_legend(series, top + 46)]
    parts += _axis(top + HEAD, bottom)
    for at, (defense, row) in enumerate(
        sorted(grid.rows.items(), key=lambda item: labels("defense", item[0]))
    ):
        start = top + HEAD + GAP / 2 + at * block
        name = one_line(labels("defense", defense), LONGEST)
        parts.append(_text(LEFT - 14, start + LINE * len(series) / 2 + 4, name, anchor="end"))
        parts += _bar(clean(row), CLEAN, start + LINE / 2, hollow=False)
        for place, standing in enumerate(row, start=1):
            y = start + LINE * (place + 0.5)
            parts += _standing(standing, *series[place], y)
    parts.append(_text(16, bottom + 38, FOOTNOTE, size=10))
    return parts, bottom + FOOT + GAP - top


def _colour(table: Table) -> str:
    return COLOURS.get(table.setting.threat, INK)


def _standing(standing: Standing | None, threat: str, colour: str, y: float) -> list[str]:
    if standing is None or standing.headline is None or standing.controls_only:
        nothing = "no number" if standing is None or standing.incomplete else "not applicable"
        return [_text(LEFT + 6, y + 3.5, f"{threat}: {nothing}", size=9, colour=CLEAN)]
    return _bar(standing.headline, colour, y, hollow=standing.incomplete or bool(standing.doubts))


def _bar(value: Interval | None, colour: str, y: float, *, hollow: bool) -> list[str]:
    """An accuracy as a dot on its interval."""
    if value is None:
        return []
    low, at, high = (_x(v) for v in (value.low, value.value, value.high))
    fill = PAPER if hollow else colour
    return [
        f'<path d="M{low:.1f} {y:.1f}H{high:.1f}" stroke="{colour}" stroke-width="2" opacity="0.55"/>',
        f'<circle cx="{at:.1f}" cy="{y:.1f}" r="3.8" fill="{fill}" stroke="{colour}" stroke-width="1.6"/>',
    ]


def _axis(top: float, bottom: float) -> list[str]:
    parts = []
    for tenths in range(0, 11, 2):
        x = _x(tenths / 10)
        parts.append(f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}" stroke="{FAINT}"/>')
        parts.append(_text(x, bottom + 14, f"{tenths / 10:.1f}", anchor="middle", size=10))
    return parts


def _legend(series: Sequence[tuple[str, str]], y: float) -> list[str]:
    parts, x = [], float(LEFT)
    for name, colour in series:
        parts.append(f'<circle cx="{x:.1f}" cy="{y - 4:.1f}" r="3.8" fill="{colour}"/>')
        parts.append(_text(x + 8, y, name, size=11))
        x += 24 + 6.2 * len(name)
    return parts


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    size: int = 12,
    bold: bool = False,
    colour: str = INK,
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{weight} fill="{colour}">'
        f"{escape(one_line(text))}</text>"
    )

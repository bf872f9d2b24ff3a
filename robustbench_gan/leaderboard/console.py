"""The table that a run prints to the terminal: one row a cell, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING

from robustbench_gan.base.errors import one_line
from robustbench_gan.leaderboard.flat import clean_interval, cost, flag_ids, robust_interval
from robustbench_gan.leaderboard.labels import Labels, number, radius
from robustbench_gan.leaderboard.questions import order
from robustbench_gan.nouns.record import Result

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

    from robustbench_gan.flags.across import Findings

STYLES = {"ok": "green", "suspect": "yellow", "failed": "red"}
FIGURES = (
    "robust",
    "clean",
    "n",
    "status",
    "flags",
    "craft s/image",
    "defense s/image",
)  # short ones, in this order
SPARED = ("defense s/image", "craft s/image", "clean")  # in turn, where a name would be broken otherwise
ABOVE = ("dataset", "classifier", "defense", "threat")  # stand above the rows that share them
SHARED = ("dataset", "classifier", "goal", "budget", "n")  # stand in the title where all rows have the same
ONE_LINE = 28  # characters: a shorter name stays on one line, if the first column spared makes room for it
GAP = 2  # between columns


@dataclass(frozen=True)
class Row:
    """One row: every text by the name of its column, and the ids of its flags."""

    text: dict[str, str]
    flags: tuple[str, ...]


@dataclass(frozen=True)
class ResultTable:
    """Rows below a heading for each system and threat model, which rich prints as wide as the console and no wider.

    Short columns come first and the attack last, on as many lines as it takes: no word is broken that fits the console.
    Flags are numbered, and named below.
    """

    rows: Sequence[Row]

    @property
    def row_count(self) -> int:
        """One a cell and budget."""
        return len(self.rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """The title with what all rows share, the rows, the flags."""
        from rich.text import Text

        if not self.rows:
            return
        shared = [key for key in SHARED if len({row.text[key] for row in self.rows}) == 1]
        if shared:
            said = [f"{'n ' if key == 'n' else ''}{self.rows[0].text[key]}" for key in shared]
            yield Text(", ".join(said), style="italic")
        yield from self._rows(shared, options.max_width)
        for flag, at in self._flags().items():
            yield Text(f"({at}) {flag}", style="yellow")

    def _flags(self) -> dict[str, int]:
        """The number of every flag that a row has."""
        ids = dict.fromkeys(flag for row in self.rows for flag in row.flags)
        return {flag: at for at, flag in enumerate(ids, 1)}

    def _rows(self, shared: Sequence[str], width: int) -> Iterator[RenderableType]:
        """The heads of the columns, then each group of rows below its own heading."""
        from rich.text import Text

        flags = self._flags()
        lines = [
            {
                **row.text,
                "flags": " ".join(f"({at})" for at in sorted(map(flags.__getitem__, row.flags))),
                "attack": _named(row, shared),
            }
            for row in self.rows
        ]
        widths = _widths(lines, width, shared)
        left = sum(widths.values()) + GAP * len(widths)
        for words in zip(*([*head.split(), ""][:2] for head in (*widths, "attack")), strict=True):
            if any(words):
                head = _padded(dict(zip((*widths, "attack"), words, strict=True)), widths)
                yield Text(head.rstrip(), style="bold")
        groups: dict[str, list[dict[str, str]]] = {}
        for line in lines:
            groups.setdefault(" / ".join(line[key] for key in ABOVE if key not in shared), []).append(line)
        for heading, members in groups.items():
            yield Text(heading, style="bold")
            for line in members:
                yield from _row(line, widths, left, width)


def _widths(lines: Sequence[dict[str, str]], width: int, shared: Sequence[str]) -> dict[str, int]:
    """The short columns and how wide each is: one is left out where too little room is left for the names behind."""
    keys = [key for key in FIGURES if key not in shared and any(line[key] for line in lines)]
    found = {key: max(len(text) for text in (*key.split(), *(line[key] for line in lines))) for key in keys}
    word = max(len(word) for line in lines for word in ("attack", *line["attack"].split()))
    name = min(ONE_LINE, max(len(line["attack"]) for line in lines))
    for key, room in zip(SPARED, (max(name, word), word, word), strict=True):
        if sum(found.values()) + GAP * len(found) + room > width:
            found.pop(key, None)
    return found


def _named(row: Row, shared: Sequence[str]) -> str:
    """The attack, with what else only this row is."""
    return ", ".join(row.text[key] for key in ("attack", "goal", "budget") if key not in shared)


def _padded(line: dict[str, str], widths: dict[str, int]) -> str:
    """The short columns of a line and what stands behind them."""
    return "".join(line[key].ljust(size + GAP) for key, size in widths.items()) + line["attack"]


def _row(line: dict[str, str], widths: dict[str, int], left: int, width: int) -> Iterator[RenderableType]:
    """One row; its name goes on below itself at a space where it is long."""
    from rich.text import Text

    first, *more = wrap(line["attack"], max(width - left, 1), break_on_hyphens=False) or [""]
    text = Text(_padded({**line, "attack": first}, widths).rstrip())
    at = sum(size + GAP for key, size in widths.items() if FIGURES.index(key) < FIGURES.index("status"))
    text.stylize(STYLES.get(line["status"], "dim"), at, at + len(line["status"]))
    yield text
    for piece in more:
        yield Text(" " * left + piece)


def console_table(results: Iterable[Result], findings: Findings | None = None) -> ResultTable:
    """A compact table, one row a cell, or a row a budget that a minimal-norm attack was asked for.

    What all rows share stands in the title. A number that does not count is shown in parentheses. The flags of a cell
    are its own and those that `findings`, across cells, raise against it.
    """
    labels = Labels.among(results := sorted(results, key=order))
    ordered = [(result, eps) for result in results for eps in result.budgets or [result.cell.eps]]
    return ResultTable(
        [Row(_line(result, eps, labels), tuple(flag_ids(result, findings))) for result, eps in ordered]
    )


def _line(result: Result, eps: float, labels: Labels) -> dict[str, str]:
    """The texts of one row by column name; plain text on one line, never markup."""
    cell, spent = result.cell, cost(result)
    clean, robust = clean_interval(result), robust_interval(result, eps)
    shown = str(robust) if robust else "–"
    line = {"dataset": labels("dataset", cell.dataset), "classifier": labels("classifier", cell.classifier)}
    line |= {"defense": labels("defense", cell.defense), "threat": labels("threat", cell.threat)}
    line |= {"goal": cell.goal, "budget": radius(cell.norm, eps)}
    line |= {"attack": labels("attack", cell.attack) + (" (control)" if result.control else "")}
    line |= {"clean": f"{clean.value:.3f}" if clean else "–"}
    line |= {"robust": shown if result.counts or robust is None else f"({shown})", "n": str(cell.samples)}
    line |= {"status": result.status}
    line |= {"craft s/image": number(spent["craft_seconds_per_image"])}
    line |= {"defense s/image": number(spent["defense_seconds_per_image"])}
    return {key: one_line(text) for key, text in line.items()}

"""What attackers had to make or ask before or while they attacked: substitutes, trained attacks, copies, queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from robustbench_gan.leaderboard.flat import measured
from robustbench_gan.leaderboard.labels import Labels, escape, number
from robustbench_gan.leaderboard.pipes import pipe_table
from robustbench_gan.nouns.fields import Fact
from robustbench_gan.nouns.record import Result

if TYPE_CHECKING:
    from robustbench_gan.leaderboard.headline import Column, Table

Facts = Mapping[str, Fact]
ColumnLabel = Callable[["Column"], str]


class Kind(NamedTuple):
    """One table: its heading, where a result keeps the facts, and the facts with their column headers."""

    heading: str
    facts: Callable[[Result], Facts]
    columns: Mapping[str, str]


KINDS = (
    Kind(
        "Substitutes",
        lambda result: result.substitute,
        {
            "protocol": "protocol", "model": "model", "rounds": "rounds", "step_sign": "step sign",
            "oracle": "oracle", "answers": "answers", "images": "attacker's images", "queries": "queries",
            "points": "points learnt", "rejected": "rejected", "accuracy": "accuracy",
            "agreement": "agreement with the oracle",
        },
    ),
    Kind(
        "Trained attacks",
        lambda result: result.trained,
        {
            "on": "trained on", "gradient": "gradient", "generators": "generators", "images": "images",
            "steps": "steps", "forward": "forward passes", "backward": "backward passes",
        },
    ),
    Kind(
        "Queries",
        lambda result: result.queries,
        {
            "answers": "answers", "limit": "limit an image", "median": "median an image", "max": "most an image",
            "total": "all",
        },
    ),
    Kind(
        "Copies attacked in the defense's place",
        lambda result: result.attacked_copy,
        {
            "seed": "seed of the copy", "parts": "trained parts", "accuracy": "its clean accuracy",
            "agreement": "agreement with the defense",
        },
    ),
)  # fmt: skip


def attackers(table: Table, labels: Labels, column: ColumnLabel) -> list[str]:
    """Markdown blocks under one table of the leaderboard, a row a cell: only the kinds that stand in it.

    Accuracy and agreement are on the judged images, which no substitute and no copy has learnt from.
    """
    blocks = []
    for kind in KINDS:
        lines = []
        for standing, c, result in table.results:
            if measured(result) and (facts := kind.facts(result)):
                names = [escape(labels("defense", standing.defense)), column(c)]
                lines.append([*names, *(_text(facts.get(name)) for name in kind.columns)])
        if lines:
            header = ["defense", "attack", *kind.columns.values()]
            blocks += [f"**{kind.heading}**", pipe_table(*_without_empty(header, lines))]
    return blocks


def _text(value: Fact | None) -> str:
    return number(value) if isinstance(value, float) else "–" if value is None else escape(str(value))


def _without_empty(
    header: Sequence[str], lines: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """The table without columns that have nothing in any row."""
    kept = [at for at in range(len(header)) if any(line[at] != "–" for line in lines)]
    return [header[at] for at in kept], [[line[at] for at in kept] for line in lines]

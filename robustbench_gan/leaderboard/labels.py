"""Text for readers: escaping, short names of specs, numbers. Text from results is never trusted."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustbench_gan.base.as_text import AsText
from robustbench_gan.base.errors import one_line
from robustbench_gan.nouns.record import Result
from robustbench_gan.nouns.spec import Chain, Spec

ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)")
KINDS = ("dataset", "classifier", "defense", "attack", "threat")
LINE = ("dataset", "classifier", "defense", "threat", "attack")  # in the order that a line names them


def escape(text: str, limit: int | None = None) -> str:
    """A text as one line of Markdown that shows it literally, inside a table too: no markup, no HTML."""
    escaped = SPECIAL.sub(lambda found: "\\" + found.group(), one_line(text, limit))
    return "".join(ENTITIES.get(char, char) for char in escaped)


def short_labels(specs: Iterable[AsText]) -> dict[str, str]:
    """Each spec's shortest telling name, by its text: the name, with the parameters in which namesakes differ."""
    namesakes: dict[str, list[tuple[str, dict[str, str]]]] = defaultdict(list)
    for text, spec in sorted({str(spec): spec for spec in specs}.items()):
        name, params = _parts(spec)
        namesakes[name].append((text, params))
    labels = {text: name + _telling(p, group) for name, group in namesakes.items() for text, p in group}
    times = Counter(labels.values())
    return {text: label if times[label] == 1 else text for text, label in labels.items()}


def _parts(named: AsText) -> tuple[str, dict[str, str]]:
    """The names of a chain, and its parameters by place and name; a user's file is its own name."""
    if not isinstance(named, Spec | Chain):
        return str(named), {}
    chain = named if isinstance(named, Chain) else Chain((named,))
    params = {}
    for place, spec in enumerate(chain):
        for key, value in spec.params:
            params[f"{place}.{key}"] = str(Spec("", ((key, value),))).removeprefix(":")
    copied = chain[0].name == "gray-box" and params.pop("0.copy", None) is not None
    return chain.name + (":copy" if copied else ""), params


def _telling(params: dict[str, str], group: Sequence[tuple[str, dict[str, str]]]) -> str:
    differ = [key for key, value in params.items() if any(p.get(key) != value for _, p in group)]
    return f" ({', '.join(params[key] for key in differ)})" if differ else ""


@dataclass(frozen=True)
class Labels:
    """The short names of one page: {kind: {text of a spec: label}}, not yet escaped."""

    of: dict[str, dict[str, str]]

    @classmethod
    def among(cls, results: Iterable[Result]) -> Labels:
        """Labels that tell all specs of these results apart."""
        results = list(results)
        made = cls({kind: short_labels(getattr(r.cell, kind) for r in results) for kind in KINDS})
        for chain, became in {r.cell.defense: r.precision for r in results if r.precision}.items():
            said = ", ".join(f"{asked} as {value}" for asked, value in sorted(became.items()))
            made.of["defense"][str(chain)] += f" [{said}]"
        return made

    def telling(self, *always: str) -> tuple[str, ...]:
        """The kinds that a line has to name: some always, the others where these results have several."""
        return tuple(kind for kind in LINE if kind in always or len(self.of[kind]) > 1)

    def __call__(self, kind: str, spec: AsText) -> str:
        """The label of one spec."""
        return self.of[kind].get(str(spec), str(spec))


def radius(norm: str, eps: float) -> str:
    """`linf ≤ 0.3`, `linf ≤ 8/255`, or `l2, any size`."""
    if math.isinf(eps):
        return f"{norm}, any size"
    plain = f"{eps:.9g}"
    steps = round(eps * 255)
    eighths = norm == "linf" and len(plain) > 5 and math.isclose(eps * 255, steps, abs_tol=1e-6)
    return f"{norm} ≤ {f'{steps}/255' if eighths else plain}"


def number(value: float | None) -> str:
    """Three significant digits without an exponent for what fits, `–` for None."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

"""Specs: a name with parameters as a user writes it, `pgd:steps=100,step=0.05`, nested in parentheses. No torch."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from robustbench_gan.base.as_text import AsText
from robustbench_gan.base.errors import UsageError, plain

NUMBERS = (int, float)
Value = Any  # int | float | bool | str | None | Spec


LONGEST, DEEPEST = 10_000, 100  # characters and parentheses of a spec


DIGITS = 8  # of a hash, that tell a user's things of one name apart
FORM = "path/to/file.py:factory@weights.safetensors"
_REFERENCE = re.compile(r"(?P<path>.*?\.py):(?P<factory>[^\W\d]\w*)(?:@(?P<weights>.+))?", re.DOTALL)
_EXPONENT = re.compile(r"[0-9.][eE]\+[0-9]")


@dataclass(frozen=True, eq=False)
class Spec(AsText):
    """A name with parameters, as written by a user: `name:key=value,...`, nested in parentheses.

    `written` are the values as they stood there: 007 is a number, and may be the name of a directory.
    """

    name: str
    params: tuple[tuple[str, Value], ...] = ()
    written: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def _canonical(self) -> str:
        return self.name + (":" + _write(self.params) if self.params else "")

    def get(self, parameter: str, default: Value = None) -> Value:
        """The value of a parameter, or this default where the spec says nothing of it."""
        return dict(self.params).get(parameter, default)

    def replaced(self, values: Mapping[str, Value]) -> Spec:
        """The same name with some parameters set anew."""
        return Spec(self.name, as_params({**dict(self.params), **values}))

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read one spec. Raises UsageError that shows where the text stops making sense."""
        text = _bounded(text).strip()
        name, colon, rest = text.partition(":")
        if "(" in name:
            return _nested(text, text)
        if not _is_name(name) or (colon and not rest.strip()):
            raise UsageError(f"cannot read {text!r}: expected name or name:key=value,key=value.")
        return cls(name, *_pairs(rest, text))


@dataclass(frozen=True, eq=False)
class Chain(AsText):
    """A composition of defenses, `outer+inner`: the first sees the input first. One alone is a chain of one."""

    stages: tuple[Spec, ...]

    def _canonical(self) -> str:
        return "+".join(map(str, self.stages))

    @classmethod
    def parse(cls, text: str) -> Chain:
        """Read a composition. Raises UsageError that shows where the text stops making sense."""
        return cls(tuple(Spec.parse(part) for part in _split(_bounded(text), "+", text)))

    @property
    def name(self) -> str:
        """The names of its stages: `ape-gan+magnet`."""
        return "+".join(spec.name for spec in self.stages)

    def __iter__(self) -> Iterator[Spec]:
        return iter(self.stages)

    def __len__(self) -> int:
        return len(self.stages)

    def __getitem__(self, at: int) -> Spec:
        return self.stages[at]


UNDEFENDED = Chain((Spec("none"),))  # the classifier as it is


@dataclass(frozen=True, eq=False)
class FileReference(AsText):
    """A classifier given as a Python file, a factory in it and, here or by --weights, a file of weights.

    In a record there is no directory, and in the place of the weights stand digits of a hash of all of it.
    """

    path: Path
    factory: str
    weights: Path | None = None

    @classmethod
    def parse(cls, text: str) -> FileReference:
        """Read `path/to/file.py:factory`, with `@weights.safetensors` or without. Raises UsageError for others."""
        found = _REFERENCE.fullmatch(text.strip())
        if found is None:
            raise UsageError(
                f"cannot read --classifier {text!r}: expected path/to/file.py:factory or {FORM}."
            )
        weights = found["weights"]
        return cls(Path(found["path"]), found["factory"], None if weights is None else Path(weights))

    def _canonical(self) -> str:
        return f"{self.source}@{self.weights}" if self.weights else self.source

    @property
    def source(self) -> str:
        """The file and its factory alone."""
        return f"{self.path}:{self.factory}"

    def published(self, digest: str) -> FileReference:
        """What records call it: without its directory, with the digits that tell it from its namesakes."""
        return FileReference(Path(plain(self.path.name)), self.factory, Path(digest[:DIGITS]))


Classifier: TypeAlias = Spec | FileReference


def classifier_of(given: Classifier | str) -> Classifier:
    """A classifier as it stands: a registered one's spec, or a user's file. Raises UsageError for what is neither."""
    if isinstance(given, FileReference):
        return given
    if isinstance(given, str) and ".py:" in given:
        return FileReference.of(given)
    if isinstance(given, str) and given.strip().endswith(".py"):
        raise UsageError(
            f"--classifier {given}: add the function in it that makes the model, as in {given}:factory."
        )
    return Spec.of(given)


def _bounded(text: str) -> str:
    """The text of a spec. Raises UsageError for one that no person wrote."""
    if len(text) > LONGEST or text.count("(") > DEEPEST:
        raise UsageError(
            f"cannot read {text[:40]!r}...: a spec has at most {LONGEST} characters and {DEEPEST} parentheses."
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"cannot read {text!a}: it holds bytes that are no UTF-8 text.") from None
    return text


def _is_name(name: str) -> bool:
    """Letters, digits and `-_.`; and @, before the digits that a record adds to the name of a user's own data."""
    return bool(name) and all(c.isalnum() or c in "-_.@" for c in name)


def _split(text: str, separator: str, whole: str) -> list[str]:
    """Split at separators that stand outside parentheses and quotes."""
    parts, depth, quote, start, escaped = [], 0, "", 0, False
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote and not escaped else quote
            escaped = char == "\\" and not escaped
        elif char in "'\"":
            quote = char
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif char == separator and depth == 0 and not _EXPONENT.fullmatch(text[max(at - 2, 0) : at + 2]):
            parts.append(text[start:at])
            start = at + 1
        if depth < 0:
            break
    if depth or quote:
        what = "quote" if quote else "parenthesis"
        raise UsageError(
            f"cannot read {whole!r}: unbalanced {what}; a text that has one stands in other quotes."
        )
    return [*parts, text[start:]]


Pairs = tuple[tuple[str, Value], ...]


def _pairs(text: str, whole: str) -> tuple[Pairs, tuple[tuple[str, str], ...]]:
    """Parameters by name, read and as written."""
    pairs: dict[str, Value] = {}
    written: dict[str, str] = {}
    if not text.strip():
        return (), ()
    for part in _split(text, ",", whole):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key.isidentifier() or not value.strip():
            quoted = " A text with a comma or a parenthesis stands in quotes." if "=" in whole else ""
            raise UsageError(f"cannot read {part.strip()!r} in {whole!r}: expected key=value.{quoted}")
        if key in pairs:
            raise UsageError(f"parameter {key!r} is given twice in {whole!r}.")
        written[key] = value.strip()
        pairs[key] = _value(written[key], whole)
    return tuple(sorted(pairs.items())), tuple(written.items())


def _value(text: str, whole: str) -> Value:
    if text[0] in "'\"":
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a backslash that begins nothing stands for itself
                return str(ast.literal_eval(text))
        except (SyntaxError, ValueError) as error:
            raise UsageError(f"cannot read {text!r} in {whole!r}: expected one quoted text.") from error
    if text.endswith(")") and _is_name(text.partition("(")[0]):
        return _nested(text, whole)
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text.lower() == "none":
        return None
    for number in (*NUMBERS, _fraction):
        try:
            return number(text)
        except (ValueError, ZeroDivisionError):
            continue
    return text


def _fraction(text: str) -> float:
    """8/255. Raises ValueError for anything else."""
    above, _, below = text.partition("/")
    return float(above) / float(below)


def _nested(text: str, whole: str) -> Spec:
    name, _, rest = text.partition("(")
    if not rest.endswith(")") or not _is_name(name):
        raise UsageError(f"cannot read {text!r} in {whole!r}: expected name(key=value,...).")
    return Spec(name, *_pairs(rest[:-1], whole))


def _write(params: tuple[tuple[str, Value], ...]) -> str:
    return ",".join(f"{key}={_write_value(value)}" for key, value in params)


def _write_value(value: Value) -> str:
    if isinstance(value, Spec):
        return f"{value.name}({_write(value.params)})"
    if isinstance(value, str):
        plain = value == value.strip() != "" and not any(c in value for c in ",()'\"+=")
        return value if plain and _value(value, value) == value else repr(value)
    return repr(value) if isinstance(value, float) else str(value)


def as_params(values: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
    """Parameters in the order and form that a Spec keeps."""
    return tuple(sorted(values.items()))

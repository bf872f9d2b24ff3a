"""Names: what is installed, how it is written (`pgd:steps=100,step=0.05`) and how it is loaded. No torch.

Attacks, defenses, models and datasets register under the entry-point groups `robustbench_gan.attacks`,
`.defenses`, `.models` and `.datasets`; the built-in ones use the same door as a stranger's.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import re
import sys
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import importlib_metadata

from robustbench_gan import stopping, trial
from robustbench_gan.aside import aside
from robustbench_gan.errors import UsageError, describe, unknown

CORE = __name__.partition(".")[0]
BUNDLED = "robustbench-gan"  # the distribution whose plugins are trusted not to end the process
GROUPS = ("attacks", "defenses", "models", "datasets")
CONTROL = "control-"  # begins the names of faults on purpose, for self-tests alone: `controls`
Value = Any  # int | float | bool | str | None | Spec
NUMBERS = (int, float)
LONGEST, DEEPEST = 10_000, 100  # characters and parentheses of a spec
_EXPONENT = re.compile(r"[0-9.][eE]\+[0-9]")


@dataclass(frozen=True)
class Spec:
    """A name with parameters, as written by a user: `name:key=value,...`, nested in parentheses.

    `written` are the values as they stood there: 007 is a number, and may be the name of a directory.
    """

    name: str
    params: tuple[tuple[str, Value], ...] = ()
    written: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)

    def __str__(self) -> str:
        return self.name + (":" + _write(self.params) if self.params else "")

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


def parse_chain(text: str) -> tuple[Spec, ...]:
    """Read a composition `outer+inner`: the first sees the input first."""
    return tuple(Spec.parse(part) for part in _split(_bounded(text), "+", text))


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


@dataclass(frozen=True)
class Parameter:
    """A keyword of an attack, defense, model or dataset: its whole configuration is its signature."""

    name: str
    default: Value
    required: bool
    choices: tuple[str, ...] = ()


def parameters(target: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword-only parameters of a registered function or class, in order."""
    return dict(_parameters(target))


@functools.lru_cache(maxsize=1024)
def _parameters(target: Callable[..., Any]) -> dict[str, Parameter]:
    """Evaluating annotations takes half a millisecond, as long as ten gradients of a small network."""
    function = target.__init__ if inspect.isclass(target) else target  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # an annotation is a stranger's code as well
        hints = {}
    found = {}
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY:
            hint = hints.get(p.name)
            choices = (
                tuple(map(str, typing.get_args(hint))) if typing.get_origin(hint) is typing.Literal else ()
            )
            required = p.default is p.empty
            found[p.name] = Parameter(p.name, None if required else p.default, required, choices)
    return found


def bind(spec: Spec, target: Callable[..., Any], what: str) -> dict[str, Value]:
    """Every parameter of `target` with the value that `spec` gives it, or its default.

    Raises UsageError for a parameter that does not exist (lists the real ones), has the wrong type or is missing.
    """
    known = parameters(target)
    values = {name: p.default for name, p in known.items()}
    for key, value in spec.params:
        if key not in known:
            raise unknown(f"parameter of {what} {spec.name!r}:", key, known)
        values[key] = _coerce(value, known[key], spec)
    missing = [p.name for p in known.values() if p.required and p.name not in dict(spec.params)]
    if missing:
        raise UsageError(
            f"{what} {spec.name!r} needs {missing[0]}=...: write {spec.name}:{missing[0]}=VALUE."
        )
    return values


def _coerce(value: Value, parameter: Parameter, spec: Spec) -> Value:
    """Check a value against the default's type; a number may stand for a spec-less text, never the reverse."""
    default, as_written = parameter.default, dict(spec.written).get(parameter.name)
    is_text = parameter.required or (isinstance(default, str) and not parameter.choices)
    if is_text and as_written and as_written[0] not in "'\"" and not (isinstance(value, Spec) and default):
        return as_written
    if parameter.choices:
        if isinstance(value, bool):  # a choice may be spelt true or false
            value = str(value).lower()
        if str(value) not in parameter.choices:
            raise unknown(f"value of {spec.name}:{parameter.name}:", str(value), parameter.choices)
        return type(default)(value) if isinstance(default, int | str) else value
    if default is None or (parameter.required and not isinstance(value, Spec)):
        return str(value) if parameter.required else value
    if isinstance(default, bool) or isinstance(value, bool):
        wanted: type = type(default)
        matches = isinstance(default, bool) and isinstance(value, bool)
    elif isinstance(default, float):
        wanted, matches = float, isinstance(value, NUMBERS)
        value = float(value) if matches else value
        matches = matches and value == value  # nan is no number
    elif isinstance(default, str):
        wanted, matches = str, isinstance(value, str | Spec)
    else:
        wanted = type(default)
        matches = isinstance(value, wanted)
    if not matches:
        raise UsageError(
            f"{spec.name}:{parameter.name}={_write_value(value)} is not a {wanted.__name__}; "
            f"the default is {default!r}."
        )
    return value


def _is(kind: Any, dotted: str) -> bool:
    """Is it the class of this name or derived from it? By name: importing the class would be importing torch."""
    return any(f"{c.__module__}.{c.__qualname__}" == dotted for c in getattr(kind, "__mro__", ()))


def _wrong_kind(group: str, found: Any) -> str:
    """What keeps an object from being one of its group, in words; empty where nothing does."""
    if not callable(found):
        return "is no function or class"
    if group == "attacks" and not _is(type(getattr(found, "info", None)), f"{CORE}.attack.AttackInfo"):
        return "is registered as an attack but does not stand under @attack(...)"
    if group == "defenses" and not _is(found, f"{CORE}.defense.Defense"):
        return f"is registered as a defense but is no class derived from {CORE}.defense.Defense"
    return ""


@dataclass(frozen=True)
class Entry:
    """One registered name: which distribution brings it, and its error where it fails to import.

    `rival` is another distribution that registers the name for something else: neither can be used by it.
    """

    group: str
    name: str
    distribution: str
    version: str
    point: Any
    rival: str = ""

    @property
    def is_ours(self) -> bool:
        """Is it bundled?"""
        return self.distribution == BUNDLED

    def load(self) -> Any:
        """Import the object. Raises UsageError that names the plugin and its error when it is broken."""
        if self.rival:
            raise UsageError(
                f"two plugins register {self.group[:-1]} {self.name!r}: {self.distribution} and {self.rival}. "
                "Uninstall one."
            )
        try:
            with stopping.PluginCall(), aside():
                found = self._imported()
        except BaseException as error:  # whatever a stranger's module raises breaks only itself
            stopping.pass_on(error)
            raise self._broken(f"fails to import: {describe(error)}") from error
        try:
            wrong = _wrong_kind(self.group, found)
            if not wrong:
                parameters(found)
        except Exception as error:
            raise self._broken(f"cannot be called: {describe(error)}") from error
        if wrong:
            raise self._broken(wrong)
        return found

    def _imported(self) -> Any:
        """A stranger's module is tried in a copy of the process, and changes nothing that others stand on."""
        if self.is_ours or self.point.module in sys.modules:
            return self.point.load()
        trial.tried((self.distribution, self.version, self.point.value), self.point.load)
        core = sys.modules.get(f"{CORE}.surroundings")  # there where torch is, and numbers are to be made
        around = core.Surroundings(generators=True, thorough=True) if core else None
        try:
            return self.point.load()
        finally:
            if around:
                around.put_back()

    def _broken(self, how: str) -> UsageError:
        return UsageError(
            f"the plugin {self.name!r} ({self.distribution} {self.version}, {self.point.value}) {how}. "
            f"Mend or uninstall {self.distribution}."
        )


def entries(group: str) -> dict[str, Entry]:
    """Everything registered in a group, by name, without importing any of it."""
    return dict(_entries(group, tuple(_state(path) for path in sys.path)))


def _state(path: str) -> tuple[str, int]:
    """A directory of sys.path and when something was last installed there."""
    try:
        return path, os.stat(path or ".").st_mtime_ns  # noqa: PTH116 - a Path takes longer than the call
    except OSError:
        return path, 0


@functools.lru_cache(maxsize=16)
def _entries(group: str, state: tuple[tuple[str, int], ...]) -> dict[str, Entry]:
    """Reading every distribution's metadata takes 10 ms: once for each state of sys.path is enough."""
    found: dict[str, Entry] = {}
    for point in importlib_metadata.entry_points(group=f"robustbench_gan.{group}"):
        dist = point.dist
        entry = Entry(group, point.name, dist.name if dist else "?", dist.version if dist else "?", point)
        other = found.get(point.name)
        if other and other.point.value != point.value:
            entry = replace(other, rival=entry.distribution)
        found[point.name] = entry
    return dict(sorted(found.items()))


def names(group: str) -> list[str]:
    """The registered names of a group, sorted, without those of controls."""
    return [name for name in entries(group) if not is_control(name)]


def is_control(name: str) -> bool:
    """A fault on purpose, which is registered like anything else and offered to nobody."""
    return name.startswith(CONTROL)


def entry(group: str, name: str) -> Entry:
    """The entry of one name. Raises UsageError for an unknown one (lists the real ones)."""
    found = entries(group)
    if name not in found:
        raise unknown(group[:-1], name, found if is_control(name) else names(group))
    return found[name]


def load(group: str, name: str) -> Any:
    """Import one registered object. Raises UsageError for an unknown name or a broken plugin."""
    return entry(group, name).load()


def resolve(group: str, spec: Spec) -> tuple[Any, dict[str, Value]]:
    """The registered object of a spec and every one of its parameters."""
    target = load(group, spec.name)
    return target, bind(spec, target, group[:-1])


def summary(target: Any) -> str:
    """The first line of an object's docstring."""
    return (inspect.getdoc(target) or "").partition("\n")[0]


def as_params(values: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
    """Parameters in the order and form that a Spec keeps."""
    return tuple(sorted(values.items()))

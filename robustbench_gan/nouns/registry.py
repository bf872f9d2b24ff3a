"""Names: what is installed and how it is loaded. No torch.

Attacks, defenses, models and datasets register under the entry-point groups `robustbench_gan.attacks`,
`.defenses`, `.models` and `.datasets`; the built-in ones use the same door as a stranger's.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import importlib_metadata

from robustbench_gan.base import stopping, trial
from robustbench_gan.base.errors import UsageError, describe, unknown
from robustbench_gan.base.redirect import aside
from robustbench_gan.nouns.spec import NUMBERS, Spec, Value, _write_value

CORE = __name__.partition(".")[0]
BUNDLED = "robustbench-gan"  # the distribution whose plugins are trusted not to end the process
GROUPS = ("attacks", "defenses", "models", "datasets")
CONTROL = "control-"  # begins the names of faults on purpose, for self-tests alone: `controls`


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
    if group == "attacks" and not _is(
        type(getattr(found, "info", None)), f"{CORE}.contracts.attacks.AttackInfo"
    ):
        return "is registered as an attack but does not stand under @attack(...)"
    if group == "defenses" and not _is(found, f"{CORE}.contracts.defense.Defense"):
        return f"is registered as a defense but is no class derived from {CORE}.contracts.defense.Defense"
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
        core = sys.modules.get(
            f"{CORE}.guards.surroundings"
        )  # there where torch is, and numbers are to be made
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

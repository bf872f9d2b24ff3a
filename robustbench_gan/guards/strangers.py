"""What is known of code that is not bundled, before and while it is called: whose it is, and whether it may be.

Bundled code is trusted not to end the process, nor to change what others stand on.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from robustbench_gan.base import trial
from robustbench_gan.base.as_text import AsText
from robustbench_gan.base.digests import code_digest
from robustbench_gan.base.errors import Fatal, UsageError, said
from robustbench_gan.guards.guard import left_alone
from robustbench_gan.guards.surroundings import Surroundings
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.registry import GROUPS
from robustbench_gan.nouns.spec import Chain, FileReference, Spec
from robustbench_gan.nouns.user_files import with_files

_NAME = re.compile(r"[\w.@-]+")


def take_part(*named: AsText) -> bool:
    """Does one of these name a plugin that is not bundled, at any depth, or is it a file of the user's?"""
    return any(_names_one(one, tuple(sys.path)) for one in named)


@functools.lru_cache(maxsize=1024)
def _names_one(one: AsText, path: tuple[str, ...]) -> bool:
    return isinstance(one, FileReference) or not _foreign(path).isdisjoint(_NAME.findall(str(one)))


@functools.lru_cache(maxsize=4)
def _foreign(path: tuple[str, ...]) -> frozenset[str]:
    return frozenset(
        name for group in GROUPS for name, entry in registry.entries(group).items() if not entry.is_ours
    )


def codes(chain: Chain) -> list[str]:
    """Hashes of the code of a chain's defenses that are not bundled, for the recipe of what is trained on them.

    What a bundled one does is known from its parameters and keys.
    """
    foreign = [s for s in chain if not registry.entry("defenses", s.name).is_ours]
    return [with_files(code_digest(registry.load("defenses", s.name)), s) for s in foreign]


def made(group: str, spec: Spec, *given: Any, key: Any = None) -> Any:
    """What the class or function of a spec makes of these.

    A stranger's is tried first, anew for another `key`. Raises Died where that ends the process, and Meddled where it
    changes what is not its own; a UsageError names the spec.
    """
    target, values = registry.resolve(group, spec)
    with naming(spec):
        if registry.entry(group, spec.name).is_ours:
            return target(*given, **values)
        for which in {None, key}:
            try_first(group, spec, lambda: target(*given, **values), which)
        with left_alone(
            f"{spec.name}, when it was made,", around=Surroundings(generators=True, thorough=True)
        ):
            return target(*given, **values)


def try_first(group: str, spec: Spec, call: Callable[[], Any], key: Any = None) -> None:
    """Try what a stranger's plugin is to be asked, once a key. Raises trial.Died where it ends the process."""
    if not registry.entry(group, spec.name).is_ours:
        trial.tried((group, str(spec), key), call)


@contextmanager
def naming(spec: Spec) -> Iterator[None]:
    """A UsageError of a component's says whose it is."""
    try:
        yield
    except Fatal:
        raise
    except UsageError as error:
        if re.search(rf"(?<![\w-]){re.escape(spec.name)}(?![\w-])", text := said(error)):
            raise
        raise UsageError(f"{spec.name}: {text}") from error


def unchanged(group: str, spec: Spec) -> AbstractContextManager[None]:
    """`undone` around a stranger's plugin."""
    return nullcontext() if registry.entry(group, spec.name).is_ours else undone()


@contextmanager
def undone() -> Iterator[None]:
    """Undo what is changed of the process while somebody's code is asked what it is, and hold it against nobody."""
    around = Surroundings(generators=True, thorough=True)
    try:
        yield
    finally:
        around.put_back()

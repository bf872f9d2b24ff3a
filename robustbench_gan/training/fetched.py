"""What a defense asked the store for when it was fitted, and what it is known by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from robustbench_gan.base.digests import code_digest
from robustbench_gan.contracts.composition import Composed
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.training.store import content_digest

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Workshop


def core_keys(workshop: Workshop, defense: Defense) -> list[str]:
    """What the classifier behind a defense is known by, beside the one in front of which it was built.

    The keys that the defense names, where it fetched them; of any other the code and weights.
    """
    if defense.core is defense.base:
        return []
    named = defense.training_keys()
    keys = [key for _, key in sorted(named.items())]
    if keys and fetched_by(workshop, defense).issuperset(keys):
        return keys
    stages = defense.stages if isinstance(defense, Composed) else [defense]
    kinds = [type(m).__qualname__ for m in defense.core.modules()]
    code = [code_digest(type(stage)) for stage in stages]
    return [*keys, *code, *kinds, content_digest(defense.core.state_dict())]


def fetched_by(workshop: Workshop, defense: Defense) -> frozenset[str]:
    """The keys of all that a defense asked the store for when it was fitted, whatever it names."""
    found: frozenset[str] = workshop.memory["fetched", id(defense)]
    return found


@contextmanager
def noting_fetched(workshop: Workshop, defense: Defense) -> Iterator[None]:
    """Note the keys of all that is asked of the store meanwhile."""
    before = dict(workshop.store.used)
    workshop.store.used.clear()
    try:
        yield
    finally:
        workshop.memory["fetched", id(defense)] = frozenset(workshop.store.used)
        workshop.store.used.update({**before, **workshop.store.used})


def class_names(defense: Defense) -> str:
    """A defense by its class, a composition by those of its stages."""
    stages = defense.stages if isinstance(defense, Composed) else [defense]
    return "+".join(type(stage).__name__ for stage in stages)

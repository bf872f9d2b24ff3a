"""What belongs to others is left as it was: a plugin that changes it is named and fails, and the change is undone.

Tensors that a plugin is handed (`base/tensors.py`, `belongings.py`), networks that cells share (`seal.py`), what a
process shares (`surroundings.py`). What a plugin returns is a plain tensor. Functions that it replaced in classes of
these networks, in Python, numpy and torch are put back; other code is out of reach.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from robustbench_gan.base.tensors import Meddled
from robustbench_gan.guards.surroundings import Surroundings

if TYPE_CHECKING:
    from robustbench_gan.guards.belongings import Belonging


class Accused(NamedTuple):
    """Code that ran beside a plugin's, by name, and how to have it run alone."""

    name: str
    ask: Callable[[], object]


@contextmanager
def left_alone(
    who: str,
    *belongings: Belonging,
    state: Sequence[Belonging] = (),
    suspects: Sequence[Accused] = (),
    around: Surroundings | None = None,
) -> Iterator[None]:
    """Run a plugin's code. Raises Meddled where it changed the belongings or the surroundings; that is undone.

    Blamed is the first of the `suspects` that does the same when it runs alone, else `who`. `state` is what the
    suspects may change themselves, being theirs, and nobody else. `around` are the surroundings as they
    must be, if they were read before.
    """
    around = around or Surroundings()
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, Meddled):
            _settle(who, around, belongings, state, suspects, error)
        else:
            around.put_back()
            _put_back(belongings, state)
        raise
    _settle(who, around, belongings, state, suspects, None)


def _settle(
    who: str,
    around: Surroundings,
    belongings: Sequence[Belonging],
    state: Sequence[Belonging],
    suspects: Sequence[Accused],
    error: Exception | None,
) -> None:
    found = [*around.put_back(), *_put_back(belongings)]
    stately = _put_back(state)
    for suspect in suspects if found or stately else ():
        alone = Surroundings(thorough=around.thorough)
        with contextlib.suppress(Exception):
            suspect.ask()
        does = [*alone.put_back(), *_put_back(belongings)]
        own_state = _put_back(state)
        stately = [name for name in stately if name not in own_state]
        if own := [name for name in found if name in does]:
            raise _meddled(suspect.name, own) from error
    if found or stately:
        raise _meddled(who, [*found, *stately]) from error


def _put_back(*belongings: Sequence[Belonging]) -> list[str]:
    return [name for each in itertools.chain(*belongings) for name in each.put_back()]


def _meddled(who: str, found: Sequence[str]) -> Meddled:
    return Meddled(f"{who} changed what is not its own: {', '.join(dict.fromkeys(found))}")

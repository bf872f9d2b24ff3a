"""An attack is called again for two images under the same seeds, told the same: it must do the same.

What it is told comes from a tape of the first passes of its cell, so the system is not asked again, and what differs is
the attack's own doing. In another batch an honest attack may round otherwise: where it did, it is called twice, and the
two calls are compared with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robustbench_gan.base.tensors import same
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns.outcome import Loss, Output

IMAGES = 2
PASSES = 4  # on a tape, at most: to play them twice takes some 2 % of a short cell
Kind = Literal["output", "gradient", "jacobian", "purified"]


@dataclass
class Tape:
    """Of the first passes of a cell what was asked about its first images, and what was told.

    Of each pass its kind, which images, what was told of them; in `asked` the images themselves.
    """

    passes: list[tuple[Kind, Tensor, tuple[Tensor, ...]]] = field(default_factory=list)
    asked: list[Tensor] = field(default_factory=list)
    going: bool = True

    def note(self, kind: Kind, index: Tensor, x: Tensor, *answer: Tensor) -> None:
        """Keep a copy of what these samples, (n,), were told of x: an attack may write into what it holds."""
        if not self.going:
            return
        rows = torch.nonzero(index < IMAGES)[:, 0]
        self.going = len(rows) > 0
        if self.going:
            self.asked.append(x.detach()[rows])
            self.going = len(self.passes) < PASSES
        if self.going:
            self.passes.append((kind, index[rows], tuple(t[rows] for t in answer)))


@dataclass(frozen=True)
class Recorded(View):
    """A view that tapes what goes through it."""

    tape: Tape = field(default_factory=Tape)

    def value_and_grad(self, loss: Loss, x: Tensor) -> tuple[Tensor, Tensor, Output]:
        """As that of any view."""
        value, grad, out = super().value_and_grad(loss, x)
        self.tape.note("gradient", self.index, x, value, grad, out.logits, out.scores)
        return value, grad, out

    def jacobian(self, x: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Output]:
        """As that of any view."""
        grads, out = super().jacobian(x, classes)
        self.tape.note("jacobian", self.index, x, grads, out.logits, out.scores)
        return grads, out

    def purified(self, x: Tensor) -> Tensor:
        """As that of any view."""
        made = super().purified(x)
        self.tape.note("purified", self.index, x, made)
        return made

    def part(self, name: str) -> nn.Module:
        """A part answers for itself: what follows is not taped."""
        self.tape.going = False
        return super().part(name)

    def _output(self, x: Tensor) -> Output:
        out = super()._output(x)
        self.tape.note("output", self.index, x, out.logits, out.scores)
        return out


class _TapeEnds(BaseException):
    """There is no answer on it. No Exception, which an attack may catch."""


@dataclass(frozen=True)
class _Replayed(Recorded):
    """A view that answers from the tape, and keeps what it was asked."""

    asked: list[Tensor] = field(default_factory=list)

    def value_and_grad(self, loss: Loss, x: Tensor) -> tuple[Tensor, Tensor, Output]:
        """What was told in the pass of the same number."""
        value, grad, logits, scores = self._told("gradient", x)
        return value, grad, Output(logits, scores)

    def jacobian(self, x: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Output]:
        """What was told in the pass of the same number."""
        grads, logits, scores = self._told("jacobian", x)
        return grads, Output(logits, scores)

    def purified(self, x: Tensor) -> Tensor:
        """What was told in the pass of the same number."""
        return self._told("purified", x)[0]

    def part(self, name: str) -> nn.Module:
        """It is not on the tape."""
        raise _TapeEnds

    def _output(self, x: Tensor) -> Output:
        logits, scores = self._told("output", x)
        if self.limit:  # an attack may look at what it has left
            self._count(backward=False)
        return Output(logits, scores)

    def _told(self, kind: Kind, x: Tensor) -> tuple[Tensor, ...]:
        """The answers to its samples; one that was not asked about then is told what the first one was."""
        at = len(self.asked)
        self.asked.append(x.detach().clone())
        if at == len(self.tape.passes) or self.tape.passes[at][0] != kind:
            raise _TapeEnds
        _, index, answer = self.tape.passes[at]
        rows = (self.index[:, None] == index).to(torch.int64).argmax(dim=1)
        return tuple(t[rows] for t in answer)


def repeats(call: Callable[[View], Any], view: Callable[[], View], tape: Tape, made: Tensor) -> bool:
    """Does an attack that made `made`, (n, C, H, W), do the same again, as far as the tape reaches? Bit for bit.

    `call` attacks the taped images through a `view` of them, made anew for the second where counts matter.
    """
    plain = view()

    def once(plain: View) -> list[Tensor | str]:
        played = _Replayed(**{name: getattr(plain, name) for name in View.__dataclass_fields__}, tape=tape)
        try:
            made = call(played)
        except _TapeEnds:
            return [*played.asked]
        except Exception as error:
            return [*played.asked, type(error).__name__]
        return [*played.asked, made.detach() if type(made) is Tensor else type(made).__name__]

    # A played view counts only for the sake of a limit: without one the second call may have the counts of the first.
    one = once(plain)
    if _equal(one, [*tape.asked, made[:IMAGES]]) or _equal(one, tape.asked):
        return True
    return _equal(one, once(view() if plain.limit else plain))


def _equal(one: Sequence[Tensor | str], other: Sequence[Tensor | str]) -> bool:
    return len(one) == len(other) and all(map(_alike, one, other))


def _alike(one: Tensor | str, other: Tensor | str) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return same(one, other)
    return not isinstance(one, Tensor) and one == other

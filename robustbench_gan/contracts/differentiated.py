"""A system's gradients by its input, in micro-batches: of a loss, and of every output (the Jacobian)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import MethodType

import torch
from torch import Tensor
from torch.nn import functional as F

from robustbench_gan.base.errors import DisconnectedGradient, NoBackward, described
from robustbench_gan.contracts.image_gradient import gradient
from robustbench_gan.contracts.systems import System, first_rows, joined
from robustbench_gan.nouns.outcome import Goal, Loss, Output

Pieces = Iterable[tuple[slice | Tensor, int]]  # rows of a micro-batch, and how many of them are no padding


@dataclass(frozen=True)
class Differentiated:
    """A system with its backward pass; `fast` computes both in bfloat16."""

    system: System
    fast: bool

    @property
    def cut(self) -> bool:
        """The positive control: an attack given no gradient."""
        return getattr(self.system, "gradient", None) == "cut"

    def of_loss(self, loss: Loss, x: Tensor, seed: Tensor, pieces: Pieces) -> tuple[Tensor, Tensor, Output]:
        """A per-sample loss (N,), its gradient (N, C, H, W) and the answer."""
        chunks = list(pieces)
        if chunks[0][1] == len(x) and isinstance(chunks[0][0], slice):  # one piece that needs no padding
            return self._of_loss(loss, x, seed)
        values, outs, start = [], [], 0
        grads = torch.empty_like(x)
        for rows, real in chunks:
            value, grad, out = self._of_loss(_of_rows(loss, start, real, len(x)), x[rows], seed[rows])
            stop = start + real
            grads[start:stop] = grad[:real]  # at once: the next piece finds its memory warm
            values.append(value)
            outs.append(first_rows(out, real))
            start = stop
        return torch.cat(values), grads, joined(outs)

    def of_outputs(
        self, x: Tensor, seed: Tensor, pieces: Pieces, classes: Tensor | None
    ) -> tuple[Tensor, Output]:
        """Gradients of each sample's columns `classes` (N, k) of logits and scores, (N, k, C, H, W), None for all."""
        grads, outs = [], []
        for rows, real in pieces:
            grad, out = self._of_outputs(x[rows], seed[rows], None if classes is None else classes[rows])
            grads.append(grad[:real])
            outs.append(first_rows(out, real))
        return torch.cat(grads), joined(outs)

    def _of_loss(self, loss: Loss, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor, Output]:
        leaf, out = self._traced(x, seed)
        with torch.enable_grad():
            value = loss(out)
        found = value.detach(), out.detach()
        if self.cut:
            return found[0], torch.zeros_like(leaf), found[1]
        return found[0], _connected(value, leaf, retain=False), found[1]

    def _of_outputs(self, x: Tensor, seed: Tensor, classes: Tensor | None) -> tuple[Tensor, Output]:
        leaf, out = self._traced(x, seed)
        with torch.enable_grad():
            every = torch.cat([out.logits, out.scores], dim=1)
            columns = (every if classes is None else every.gather(1, classes)).sum(dim=0)
        if self.cut:
            return x.new_zeros(len(x), len(columns), *x.shape[1:]), out.detach()
        last = len(columns) - 1
        grads = [_connected(c, leaf, retain=at < last) for at, c in enumerate(columns)]
        return torch.stack(grads, dim=1), out.detach()

    def _traced(self, x: Tensor, seed: Tensor) -> tuple[Tensor, Output]:
        """A leaf to differentiate by and the answer to it, in bfloat16 inside where it is `fast`.

        Where the gradient is cut no graph is drawn: through a projection it would cost many times the answer.
        """
        leaf = x.detach().requires_grad_()
        with torch.set_grad_enabled(not self.cut):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.fast):
                out = self.system(leaf, seed)
            return leaf, Output(out.logits.float(), out.scores.float())


def _connected(value: Tensor, leaf: Tensor, retain: bool) -> Tensor:
    try:
        grad = gradient(value, leaf, retain=retain)
    except RuntimeError as error:
        if type(error) is not RuntimeError:  # a lack of memory, or what says by its type what it is
            raise
        raise NoBackward(described(error)) from error
    if grad is None:
        raise DisconnectedGradient(
            "autograd finds no path from the loss to the input: the classifier or the defense detaches its answer. "
            "Ask for gradient=bpda of a defense, or for an attack that needs no gradient, such as square."
        )
    return grad


def _of_rows(loss: Loss, start: int, real: int, n: int) -> Loss:
    """The loss of all N samples as one of a padded micro-batch, whose samples are those from `start` on.

    A goal knows its own rows; any other loss is given the answers set among zeros for the other samples.
    """
    if isinstance(loss, MethodType) and isinstance(loss.__self__, Goal):
        rows = torch.arange(start, start + real, device=loss.__self__.classes.device)
        goal, of_goal = loss.__self__.rows(rows), loss.__func__
        return lambda out: of_goal(goal, first_rows(out, real))

    def of_piece(out: Output) -> Tensor:
        around = (0, 0, start, n - start - real)
        whole = Output(F.pad(out.logits[:real], around), F.pad(out.scores[:real], around))
        return loss(whole)[start : start + real]

    return of_piece

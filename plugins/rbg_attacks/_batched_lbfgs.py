"""L-BFGS in a box for many problems at once: each has its own history, step and end, and all are evaluated together.

The caller evaluates: `ask` gives the points to look at, `tell` takes values and gradients there. Every round costs
each problem one evaluation, whether it is starting, moving on or shortening its step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vecdot

SUFFICIENT = 1e-4  # Armijo's share of the decrease that the slope promises
SHORTEST = 1e-6  # a step shortened to this part of itself helps nobody
FLATTEST = 1e-6  # least s.y / y.y of a pair that is used: beyond are rounding and hills


class BatchedLbfgs:
    """Minimises N functions of n variables over [0, 1]^n (Liu and Nocedal 1989; bounds as in Bertsekas 1982).

    A variable at a bound that the gradient pushes outwards is held; the two-loop recursion runs over the free ones,
    with the `history` latest pairs cut to them; steps, bent where they meet the box, are shortened until Armijo's
    rule holds. A problem has ended after an accepted step that lowers its value by no more than `tolerance` (of its
    size, where that is above 1), where no free gradient is above `tolerance`, when shortening does not help, or
    after `steps` evaluations. A first step is `first` gradients long, but not above 1 in l2.
    """

    def __init__(self, start: Tensor, *, steps: int, history: int, tolerance: float, first: float) -> None:
        """Problems at points `start` (N, n), in [0, 1], that `begin` has to be called for."""
        count, size = start.shape
        self.steps, self.tolerance, self.first = steps, tolerance, first
        self.at, self.grad, self.direction = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
        self.value, self.step = start.new_zeros(count), start.new_ones(count)
        self.moves, self.turns = (start.new_zeros(count, history, size) for _ in range(2))
        self.stored, self.used = (start.new_zeros(count, dtype=torch.int64) for _ in range(2))

    def begin(self, rows: Tensor, value: Tensor, grad: Tensor) -> None:
        """Start problems `rows` (R,) anew where they stand; the value (R,) and gradient (R, n) there are known."""
        self.value[rows], self.grad[rows] = value, grad
        self.stored[rows] = self.used[rows] = 0
        self._aim(rows, _free(self.at[rows], grad))

    def ask(self, rows: Tensor) -> Tensor:
        """The points to evaluate next, (R, n)."""
        return (self.at[rows] + self.step[rows, None] * self.direction[rows]).clamp_(0, 1)

    def tell(self, rows: Tensor, trial: Tensor, value: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Take values (R,) and gradients (R, n) at the points asked for; (R,) bool each: moved there, ended."""
        before = self.value[rows]
        move = trial - self.at[rows]
        slope = vecdot(self.grad[rows], move)
        moved = value <= before + SUFFICIENT * slope.clamp(max=0)  # the box may bend a step uphill
        enough = self.tolerance * torch.maximum(before.abs(), value.abs()).clamp(min=1)
        self._shorten(rows[~moved], (slope / (2 * (slope + before - value)))[~moved])
        stuck = (self.step[rows] < SHORTEST) | (slope.abs() <= SUFFICIENT * enough)
        ended = torch.where(moved, before - value <= enough, stuck)
        self.used[rows] += 1
        ended |= self.used[rows] >= self.steps
        ended[moved] |= self._advance(rows[moved], move[moved], value[moved], grad[moved])
        return moved, ended

    def _advance(self, rows: Tensor, move: Tensor, value: Tensor, grad: Tensor) -> Tensor:
        """Go where an accepted step leads and aim anew; (R,) whether nothing pulls there any more."""
        self._remember(rows, move, grad - self.grad[rows])
        self.at[rows] = (self.at[rows] + move).clamp_(0, 1)
        self.value[rows], self.grad[rows] = value, grad
        free = _free(self.at[rows], grad)
        self._aim(rows, free)
        return free.abs().amax(dim=1) <= self.tolerance

    def _shorten(self, rows: Tensor, share: Tensor) -> None:
        """Cut a step to the minimum of the parabola through what is known, within a tenth and a half of it."""
        self.step[rows] *= share.nan_to_num(0.1).clamp(0.1, 0.5)

    def _remember(self, rows: Tensor, move: Tensor, turn: Tensor) -> None:
        """Store a step and the change of gradient along it in the oldest place, where the function curves upwards."""
        curved = vecdot(move, turn) > FLATTEST * vecdot(turn, turn)
        rows = rows[curved]
        place = self.stored[rows] % self.moves.shape[1]
        self.moves[rows, place], self.turns[rows, place] = move[curved], turn[curved]
        self.stored[rows] += 1

    def _aim(self, rows: Tensor, free: Tensor) -> None:
        """The next direction, from the free gradient (R, n) by the two-loop recursion."""
        length = free.norm(dim=1).clamp(min=torch.finfo(free.dtype).tiny)
        cautious = (1 / length).clamp(max=self.first)
        scale, known = cautious, torch.zeros_like(rows, dtype=torch.bool)
        q, pairs = free, []
        for move, turn, stored in self._pairs(rows, free != 0):
            product, square = vecdot(move, turn), vecdot(turn, turn)
            usable = stored & (product > FLATTEST * square)
            scale = torch.where(usable & ~known, product / square, scale)  # of the latest pair
            known |= usable
            inverse = torch.where(usable, 1 / product, 0)
            weight = inverse * vecdot(move, q)
            q = q - weight[:, None] * turn
            pairs.append((move, turn, inverse, weight))
        q = q * scale[:, None]
        for move, turn, inverse, weight in reversed(pairs):
            q = q + (weight - inverse * vecdot(turn, q))[:, None] * move
        descends = vecdot(q, free) > 0
        q = torch.where(descends[:, None], q, cautious[:, None] * free)
        self.direction[rows] = -q.nan_to_num(0.0, 0.0, 0.0)  # a gradient that is no number leads nowhere
        self.step[rows] = 1

    def _pairs(self, rows: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Steps and turns (R, n) on the free variables, from the latest, and which problems have stored so many."""
        stored, history = self.stored[rows], self.moves.shape[1]
        most = min(history, int(stored.max())) if len(rows) else 0
        places = [((stored - age) % history, age <= stored) for age in range(1, most + 1)]
        return [(self.moves[rows, at] * mask, self.turns[rows, at] * mask, there) for at, there in places]


def _free(at: Tensor, grad: Tensor) -> Tensor:
    """The gradient without what pushes out of the box, (R, n)."""
    held = ((at <= 0) & (grad > 0)) | ((at >= 1) & (grad < 0))
    return grad.masked_fill(held, 0)

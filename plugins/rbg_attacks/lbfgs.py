"""Szegedy's attack: box-constrained L-BFGS, with a search for the constant."""

from __future__ import annotations

import torch
from torch import Tensor

from rbg_attacks._batched_lbfgs import BatchedLbfgs
from robustbench_gan.contracts import Budget, Goal, Loss, Output, UsageError, View, attack, blend, flat

ROOM = 0.1  # of a detector's threshold
UNKNOWN = 1e10  # the upper end of the search before any success


@attack(
    norms=("l2",),
    needs="gradient",
    minimal=True,
    passes=lambda p: 1 + p["search_steps"] * p["steps"],
    paper="Szegedy et al. 2014, arXiv 1312.6199",
)
def lbfgs(
    view: View,
    x: Tensor,
    goal: Goal,
    budget: Budget,
    seed: Tensor,
    *,
    steps: int = 100,
    search_steps: int = 5,
    initial_const: float = 1e-2,
    history: int = 5,
    tolerance: float = 1e-4,
) -> Tensor:
    """L-BFGS (Szegedy et al. 2014, section 4.1): the least const * loss + |x' - x|^2 in the box, searched over const.

    x is (N, C, H, W) in [0, 1]; returns the same shape: of all points looked at that reach the goal the nearest, x
    itself where there is none (or none inside a finite eps). The loss is the cross-entropy towards the goal: -log p_t,
    and untargeted -log(1 - p_y), which unlike log p_y does not vanish where the model is sure; firing detectors are
    charged their scores. const starts at `initial_const`, grows tenfold until a minimum reaches the goal, then is
    bisected: `search_steps` minimisations a sample, each from where the last ended. One takes up to `steps` gradients
    and stores the `history` latest pairs; it ends at a relative decrease or a free gradient of `tolerance`.
    On linear models of two classes the size is within a factor 1.3 of the optimum, 1.1 for search_steps=10, unless
    the answer was all but a tie. Raises UsageError for a count below 1, an initial_const of 0 or less, a negative
    tolerance.
    """
    if min(steps, search_steps, history) < 1 or initial_const <= 0 or tolerance < 0:
        raise UsageError(
            f"lbfgs: steps={steps}, search_steps={search_steps} and history={history} must be at least 1, "
            f"initial_const={initial_const} above 0, tolerance={tolerance} at least 0."
        )
    value, grad, out = view.value_and_grad(_towards(goal), x)
    clean, won = flat(x), goal.reached(out)
    best, nearest = clean.clone(), torch.where(won, 0, torch.inf)
    const = _Search(value, initial_const)
    solver = BatchedLbfgs(clean, steps=steps, history=history, tolerance=tolerance, first=0.5)
    active = torch.nonzero(~won)[:, 0]
    solver.begin(active, -const.now[active] * value[active], -const.now[active, None] * flat(grad)[active])
    while len(active):
        trial, c = solver.ask(active), const.now[active]
        there, goals = view.rows(active), goal.rows(active)
        value, grad, out = there.value_and_grad(_towards(goals), trial.view(-1, *x.shape[1:]))
        delta = trial - clean[active]
        size = delta.square().sum(dim=1)
        moved, ended = solver.tell(active, trial, size - c * value, 2 * delta - c[:, None] * flat(grad))
        reached = goals.reached(out)
        won[active[moved]] = reached[moved]
        better = torch.nonzero(reached & (size < nearest[active]))[:, 0]
        if view.fast and len(better):  # not believed of an answer in bfloat16
            sure = there.rows(better).output(trial[better].view(-1, *x.shape[1:]))
            better = better[goals.rows(better).reached(sure)]
        best[active[better]], nearest[active[better]] = trial[better], size[better]
        if ended.any():
            again = active[ended & (const.tried[active] + 1 < search_steps)]
            ratio = const.next(active[ended], won[active[ended]])[const.tried[active[ended]] < search_steps]
            _reweigh(solver, again, clean[again], ratio)
            active = active[const.tried[active] < search_steps]
    found = best.view_as(x)
    return blend(budget.contains(found - x), found, x)


class _Search:
    """C&W's search for each sample's constant: tenfold until a success, then the middle of failure and success."""

    def __init__(self, like: Tensor, initial: float) -> None:
        self.now = torch.full_like(like, initial)
        self.lower, self.upper = torch.zeros_like(like), torch.full_like(like, UNKNOWN)
        self.tried = torch.zeros_like(like, dtype=torch.int64)

    def next(self, rows: Tensor, success: Tensor) -> Tensor:
        """Move on from an outcome (R,); how many times larger the constants have become, (R,)."""
        now = self.now[rows]
        self.upper[rows] = upper = torch.where(success, now, self.upper[rows])
        self.lower[rows] = lower = torch.where(success, self.lower[rows], now)
        self.now[rows] = torch.where(upper < UNKNOWN, (lower + upper) / 2, now * 10)
        self.tried[rows] += 1
        return self.now[rows] / now


def _reweigh(solver: BatchedLbfgs, rows: Tensor, clean: Tensor, ratio: Tensor) -> None:
    """Begin anew with constants `ratio` times as large: the value and gradient where it stands follow from the old."""
    delta = solver.at[rows] - clean
    size = delta.square().sum(dim=1)
    value = size + ratio * (solver.value[rows] - size)
    grad = 2 * delta + ratio[:, None] * (solver.grad[rows] - 2 * delta)
    solver.begin(rows, value, grad)


def _towards(goal: Goal) -> Loss:
    """What the attack raises: the log of the probability that the goal gives its classes, less detectors' scores.

    A detector's score is charged from a little before it fires and without a kink (Huber), else minima would lie
    where it just fires, and steps that trust the curvature would stall there.
    """

    def loss(out: Output) -> Tensor:
        near = (out.scores + ROOM).clamp(min=0)
        charge = torch.where(near < ROOM, near.square() / (2 * ROOM), near - ROOM / 2).sum(dim=1)
        if goal.kind == "targeted":
            return goal.loss(Output.of(out.logits)) - charge
        others = out.logits.scatter(1, goal.classes[:, None], -torch.inf).logsumexp(dim=1)
        return others - out.logits.logsumexp(dim=1) - charge

    return loss

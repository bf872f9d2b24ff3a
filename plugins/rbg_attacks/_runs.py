"""What gradient attacks with restarts share: the best of several runs, and answers to be trusted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_gan.contracts import Goal, View

Run = Callable[[int, Tensor], tuple[Tensor, Tensor]]


def best_of(view: View, x: Tensor, runs: int, run: Run) -> Tensor:
    """The examples of largest margin over several runs, (N, C, H, W).

    `run(number, rows)` attacks the samples in `rows` and returns their examples and margins. A sample already won
    is not run again where the view is exact.
    """
    best, margin = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
    for number in range(runs):
        todo = torch.nonzero(margin <= 0)[:, 0] if view.exact else torch.arange(len(x), device=x.device)
        if len(todo) == 0:
            break
        best, margin = keep_better(best, margin, *run(number, todo), todo)
    return best


def keep_better(
    best: Tensor, margin: Tensor, found: Tensor, reached: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """The best examples and margins so far, with those found for the samples `rows` where they are better.

    Whichever are fewer are copied, so `best` and `found` may both be written to.
    """
    better = reached > margin[rows]
    if len(rows) == len(best):
        kept = torch.nonzero(~better)[:, 0]
        if 2 * len(kept) <= len(best):
            return found.index_copy_(0, kept, best[kept]), torch.where(better, reached, margin)
    new = torch.nonzero(better)[:, 0]
    return best.index_copy_(0, rows[new], found[new]), margin.index_copy(0, rows[new], reached[new])


def confirmed(view: View, goal: Goal, x: Tensor, margin: Tensor) -> Tensor:
    """Margins (N,) that may end a sample: a win seen in bfloat16 is asked again in float32.

    Costs a pass only on a `fast` view that is exact, and there only for the samples that seem won.
    """
    if not (view.fast and view.exact):
        return margin
    seems = torch.nonzero(margin > 0)[:, 0]
    if len(seems) == 0:
        return margin
    return margin.index_copy(0, seems, goal.rows(seems).margin(view.rows(seems).output(x[seems])))


def confirmed_passes(steps: int) -> int:
    """At most so many forward passes a sample of an attack that has every step `confirmed`."""
    return 2 * steps

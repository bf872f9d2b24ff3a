"""P19: the worst of many random points of the ball must not beat a gradient attack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from robustbench_gan.audit.check import Check, Wanted
from robustbench_gan.audit.compare import above, told
from robustbench_gan.audit.record import Finding
from robustbench_gan.base.batching import micro_batch_size
from robustbench_gan.base.progress import task
from robustbench_gan.nouns.outcome import Goal, correct
from robustbench_gan.nouns.seeds import fold, judge_seeds

if TYPE_CHECKING:
    from robustbench_gan.audit.system import System
    from robustbench_gan.flags.paired import Numbers

POINTS: Final = 1000  # an image, at least
IMAGES: Final = 20


def cells(system: System) -> list[Wanted]:
    """The gradient attack to beat."""
    return [system.pgd()]


def look(system: System) -> Finding:
    """What PGD leaves of the first images against what the worst point leaves, judged under the same seeds."""
    pgd = system.stands(system.pgd())[:IMAGES]
    x, y = system.images(IMAGES)
    worst = worst_points(system, x, y)
    seen = judged(system, x, worst, y)
    test = above("random-search-beats-gradients", "invalid", ("PGD", pgd), (f"{POINTS} random points", seen))
    return Finding(figure=told(pgd, seen), n=len(pgd), tests=[test])


def worst_points(system: System, x: Tensor, y: Tensor) -> Tensor:
    """Of POINTS random points around each image the one of largest margin, (N, C, H, W), under seeds of its own."""
    budget, seed = system.budget, system.seeds("random search", len(x))
    best, most = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
    rounds = max(1, micro_batch_size(x.device) // len(x))  # points an image in each pass
    with task("random search", POINTS) as advance:
        for start in range(0, POINTS, rounds):
            count = min(rounds, POINTS - start)
            drawn = torch.cat([fold(seed, start + at) for at in range(count)])
            given, aim = x.repeat(count, 1, 1, 1), Goal.untargeted(y.repeat(count))
            points = (given + budget.random(given, drawn)).clamp(0, 1)
            margin = aim.margin(system.answer(points, fold(drawn, "answer"))).reshape(count, len(x))
            top, where = margin.max(dim=0)
            chosen = points.reshape(count, *x.shape)[where, torch.arange(len(x), device=x.device)]
            better = top > most
            best[better], most = chosen[better], torch.maximum(top, most)
            advance(count)
    return best


def judged(system: System, x: Tensor, made: Tensor, y: Tensor) -> Numbers:
    """What stands, (N,): the mean over the judge's seeds, right unperturbed and right on what was made."""
    first, rows = system.planned(system.pgd()).cell.first, []
    for k in range(system.judge_seeds):
        seed = judge_seeds(system.asked.seed, k, x, first)
        right = correct(system.answer(x, seed), y)
        rows.append(right & ~Goal.untargeted(y).reached(system.answer(made, seed)))
    stands: Numbers = torch.stack(rows).double().mean(dim=0).cpu().numpy()
    return stands


def seconds(system: System) -> float:
    """Of the points' answers."""
    return system.forward_seconds(POINTS * min(IMAGES, system.asked.samples))


CHECK = Check(
    "random-search", "P19", f"do {POINTS} random points beat PGD?", ("random-search-beats-gradients",), look,
    f"{POINTS} answers an image, {IMAGES} images", cells=cells, seconds=seconds,
)  # fmt: skip

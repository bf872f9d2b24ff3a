"""The attack on Defense-GAN that stays in the generator's range, where projection changes nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rbg_attacks._latent import Found, inversion_passes, invert, latent_size, leave
from robustbench_gan.contracts import Budget, Goal, NotApplicable, UsageError, View, attack
from robustbench_gan.seeds import fold, normal

LARGEST = 1e10  # a weight that is raised no more


@attack(
    norms=("l2",),
    needs="gradient",
    passes=lambda p: p["search_steps"] * p["confirm"],
    part_passes=lambda p: (
        inversion_passes(p["inversions"], p["inversion_steps"]) + p["search_steps"] * 2 * (p["steps"] + 1)
    ),
    minimal=True,
    gradient="full",
    paper="Athalye et al. 2018, arXiv 1802.00420",
)
def manifold(
    view: View,
    x: Tensor,
    goal: Goal,
    budget: Budget,
    seed: Tensor,
    *,
    inversions: int = 30,
    inversion_steps: int = 200,
    steps: int = 200,
    search_steps: int = 5,
    c: float = 1.0,
    lr: float = 0.1,
    confidence: float = 0.0,
    confirm: bool = True,
) -> Tensor:
    """Latent-space attack (Athalye et al. 2018, on Defense-GAN): minimise ||G(z) - x||^2 + c * max(0, -margin) over z.

    An image G(z) is its own projection, so a perfect Defense-GAN gives it to the classifier as it is. First x is
    inverted from `inversions` codes drawn from N(0, I), `inversion_steps` of Adam each, and the nearest is kept; from
    there `steps` of Adam for each of `search_steps` weights, bisected from `c` by sample. `lr` is Adam's rate,
    `confidence` the margin that an image must have. A real projection is not perfect: with `confirm` the nearest
    success of each weight is shown to the defended system, and where that is not fooled the margin asked for doubles.

    x is (N, C, H, W) in [0, 1]; returns the same shape: of each sample the image in the generator's range nearest x
    in l2 that fools the defended system, else one that fools its classifier, else the one of largest margin. Where a
    finite budget holds none of them, x itself. The published code keeps the last success, takes 3,000 and 30,000
    steps, and never asks the defended system. On a linear model of two classes with a linear generator it comes within
    1% of the closed-form optimum; of more classes it takes the one that the descent meets first.
    Raises NotApplicable without access to `generator` and `classifier`, UsageError for fewer than one of anything.
    """
    _check(inversions, inversion_steps, steps, search_steps, c, lr, confidence)
    generator, classifier = _part(view, "generator"), _part(view, "classifier")
    try:
        codes = normal(fold(seed, "manifold"), (inversions, latent_size(generator))).to(x.device)
    except ValueError as why:
        raise NotApplicable(f"manifold needs a generator of images from codes: {why}") from why
    start = invert(generator, x, codes, steps=inversion_steps, lr=lr)
    best = Found.nothing(x)
    low, high = torch.zeros_like(best.size), torch.full_like(best.size, torch.inf)
    weight, demand = torch.full_like(low, c), torch.full_like(low, confidence)
    for _ in range(search_steps):
        found = leave(
            generator, classifier, x, goal, start, weight, demand, steps=steps, lr=lr, within=budget.eps
        )
        found = _confirmed(view, goal, found) if confirm else found
        best = best.or_better(found)
        won, withstood = found.level > confirm, (found.level == 1) & confirm
        high = torch.where(won, weight, torch.where(withstood, torch.inf, high))
        low = torch.where(won | withstood, low, weight)
        demand = torch.where(withstood, (2 * demand).clamp(min=1), demand)
        higher = torch.where(withstood, weight, (10 * weight).clamp(max=LARGEST))
        weight = torch.where(torch.isinf(high), higher, (low + high) / 2)
    return best.image


def _confirmed(view: View, goal: Goal, found: Found) -> Found:
    """The same, raised to level 2 where the defended system is fooled as well as the classifier."""
    rows = torch.nonzero(found.level > 0)[:, 0]
    if len(rows) == 0:
        return found
    out = view.rows(rows).output(found.image[rows])
    level = found.level.index_add(0, rows, goal.rows(rows).reached(out).long())
    return Found(found.image, level, found.size, found.margin)


def _part(view: View, name: str) -> nn.Module:
    try:
        return view.part(name)
    except PermissionError as why:
        raise NotApplicable(
            "manifold searches the range of a defense's generator: it needs a white-box or seed-known attacker and a "
            f"defense that has one ({why})"
        ) from why


def _check(
    inversions: int,
    inversion_steps: int,
    steps: int,
    search_steps: int,
    c: float,
    lr: float,
    confidence: float,
) -> None:
    counts = {
        "inversions": inversions, "inversion_steps": inversion_steps, "steps": steps, "search_steps": search_steps
    }  # fmt: skip
    for name, value in counts.items():
        if value < 1:
            raise UsageError(f"manifold needs {name} >= 1, not {value}.")
    if not (c > 0 and lr > 0 and confidence >= 0):
        raise UsageError(f"manifold needs c > 0, lr > 0 and confidence >= 0, not {c}, {lr} and {confidence}.")

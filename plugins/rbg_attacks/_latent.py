"""Searching the range of a generator: the code nearest an image, and the nearest one that is classified otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_gan.contracts import Goal, Output, per_sample


@dataclass(frozen=True)
class Found:
    """The best image of each sample so far.

    `level` (N,) is 0 where nothing was fooled, 1 where the classifier was, 2 where the defended system was too.
    `size` (N,) is the distance from x, `margin` (N,) the classifier's. More level is better; at equal level the
    smaller size, or below level 1 the larger margin.
    """

    image: Tensor  # (N, C, H, W)
    level: Tensor
    size: Tensor
    margin: Tensor

    @classmethod
    def nothing(cls, x: Tensor) -> Found:
        """Every image is x itself and fools nobody."""
        zero = torch.zeros(len(x), device=x.device)
        return cls(x.clone(), zero.long(), zero + torch.inf, zero - torch.inf)

    def or_better(self, new: Found) -> Found:
        """Of each sample the better of the two."""
        closer = torch.where(self.level > 0, new.size < self.size, new.margin > self.margin)
        better = (new.level > self.level) | ((new.level == self.level) & closer)
        return Found(
            torch.where(per_sample(better, self.image), new.image, self.image),
            *(
                torch.where(better, a, b)
                for a, b in ((new.level, self.level), (new.size, self.size), (new.margin, self.margin))
            ),
        )


def latent_size(generator: nn.Module) -> int:
    """The length of a generator's code: what its first linear layer takes. Raises ValueError where it has none."""
    for module in generator.modules():
        if isinstance(module, nn.Linear):
            return module.in_features
    raise ValueError("the generator has no linear layer to tell the length of its code")


def invert(generator: nn.Module, x: Tensor, start: Tensor, *, steps: int, lr: float) -> Tensor:
    """The code (N, k) whose image is nearest x, of all that Adam passes from start (N, R, k).

    After each fifth of the steps the worse half of a sample's codes is dropped, at 0.4 of the cost of keeping all.
    """
    n, k = len(start), start.shape[2]
    z, moments = start, (torch.zeros_like(start), torch.zeros_like(start))
    best, least = start[:, 0], torch.full((n,), torch.inf, device=x.device)
    for step in range(steps + 1):
        leaf = z.flatten(0, 1).detach().requires_grad_(step < steps)
        target = x.repeat_interleave(z.shape[1], dim=0)
        with torch.set_grad_enabled(step < steps):
            raw = (generator(leaf) - target).square().flatten(1).sum(dim=1)
        errors = raw.detach().view(n, -1)
        lowest, at = errors.min(dim=1)
        best = torch.where((lowest < least)[:, None], z[torch.arange(n, device=x.device), at], best)
        least = torch.minimum(least, lowest)
        if step == steps:
            break
        grad = torch.autograd.grad(raw.sum(), leaf)[0].view_as(z)
        if z.shape[1] > 1 and step in _cuts(steps):
            kept = errors.topk(-(-z.shape[1] // 2), dim=1, largest=False).indices.sort(dim=1).values
            codes = kept[:, :, None].expand(-1, -1, k)
            z, grad = z.gather(1, codes), grad.gather(1, codes)
            moments = (moments[0].gather(1, codes), moments[1].gather(1, codes))
        z, moments = adam(z, grad, moments, step, lr)
    return best


def _cuts(steps: int) -> set[int]:
    """The steps of an inversion after which the worse half of the codes is dropped."""
    return {steps * part // 5 for part in range(1, 5)}


def inversion_passes(restarts: int, steps: int) -> int:
    """How many images `invert` makes a sample."""
    total = 0
    for step in range(steps + 1):
        total += restarts
        restarts = -(-restarts // 2) if step in _cuts(steps) else restarts
    return total


def leave(
    generator: nn.Module,
    classifier: nn.Module,
    x: Tensor,
    goal: Goal,
    start: Tensor,
    weight: Tensor,
    demand: Tensor,
    *,
    steps: int,
    lr: float,
    within: float,
) -> Found:
    """Descend ||G(z) - x||^2 + weight * max(0, demand - margin) from start (N, k); weight and demand are (N,).

    Returns the nearest image of those passed whose margin is above `demand` and distance at most `within`, and the
    one of largest margin where there is none.
    """
    best, z, moments = Found.nothing(x), start, (torch.zeros_like(start), torch.zeros_like(start))
    for step in range(steps + 1):
        leaf = z.detach().requires_grad_(step < steps)
        with torch.set_grad_enabled(step < steps):
            image: Tensor = generator(leaf)
            margin = goal.margin(Output.of(classifier(image)))
            square = (image - x).square().flatten(1).sum(dim=1)
            loss = square + weight * (demand - margin).clamp(min=0)
        seen = Found(image.detach(), (margin > demand).long(), square.detach().sqrt(), margin.detach())
        best = best.or_better(_only(seen, seen.size <= within))
        if step < steps:
            (grad,) = torch.autograd.grad(loss.sum(), leaf)
            z, moments = adam(z, grad, moments, step, lr)
    return best


def _only(found: Found, inside: Tensor) -> Found:
    """The same, with images that are too far made worse than anything."""
    nothing = torch.full_like(found.margin, -torch.inf)
    return Found(found.image, found.level * inside, found.size, torch.where(inside, found.margin, nothing))


def adam(
    z: Tensor, grad: Tensor, moments: tuple[Tensor, Tensor], step: int, lr: float
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One step, counted from 0, of Adam with the usual constants: the new z and its moments."""
    first = moments[0].lerp(grad, 0.1)
    second = moments[1].lerp(grad.square(), 0.001)
    root = (second / (1 - 0.999 ** (step + 1))).sqrt()
    return z - lr / (1 - 0.9 ** (step + 1)) * first / (root + 1e-8), (first, second)

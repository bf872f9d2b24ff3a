"""Projection on a generator's range by descent on the latent code, and its exact gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rbg_defenses._frozen import FrozenGenerator
from robustbench_gan.seeds import normal
from robustbench_gan.training import machine

ROWS = {
    "cpu": 250,
    "cuda": 16384,
}  # codes in the generator at once: at width 64, 0.4 MB each, so 100 MB on a CPU
# Pruning: after this share of the iterations, this share of the restarts is left. Chosen on validation images. Codes
# from the prior start farther apart, so that it shows later which of them will end best.
SCHEDULES = {
    "small": ((0.1, 0.6), (0.25, 0.3), (0.5, 0.2)),
    "prior": ((0.1, 0.8), (0.25, 0.5), (0.5, 0.3)),
}
SlopeOf = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # codes and images to errors and their gradients
CurvatureOf = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # and a direction to its two products


@dataclass(frozen=True)
class Projection:
    """How Defense-GAN looks for the code nearest an image (Samangouei et al. 2018, eq. 8).

    Momentum descent on the mean squared error over pixels, from `restarts` random codes a sample. `init` draws
    them from N(0, 1/k) ("small", what the reference code does) or N(0, I) ("prior", what the generator was
    trained on). `decay` divides the rate by 10 after 80% of the iterations (stated in the paper, without
    effect in its code). `after_last` returns the image after the last update; the reference code returns the
    one before it. The rest is no part of the published algorithm. `prune` drops restarts that are behind the
    others of their image: after a tenth of the iterations the best 60% (rounded up) stay, after a quarter 30%,
    after a half 20%, which at R = 10 leaves 36% of the work; from the prior's codes 80%, 50% and 30%, which leaves
    50%. The count depends on R alone, never on the image.
    `bf16` computes errors and gradients from bfloat16 weights and activations where the processor has them (in
    float32 where not); codes, velocities and the choice among the restarts at the end stay in float32.
    """

    iterations: int = 200
    restarts: int = 10
    lr: float = 10.0
    momentum: float = 0.7
    init: Literal["small", "prior"] = "small"
    decay: bool = False
    after_last: bool = False
    prune: bool = False
    bf16: bool = False

    @property
    def cuts(self) -> dict[int, int]:
        """How many restarts of an image go on after an iteration, at those where some are dropped."""
        shares = SCHEDULES[self.init] if self.prune else ()
        return {round(at * self.iterations): math.ceil(left * self.restarts - 1e-9) for at, left in shares}

    def rate(self, iteration: int) -> float:
        """The learning rate of an iteration."""
        late = self.decay and iteration >= math.ceil(0.8 * self.iterations)
        return self.lr * (0.1 if late else 1.0)

    @property
    def updates(self) -> int:
        """How many updates the returned code has seen."""
        return self.iterations if self.after_last else self.iterations - 1

    def start(self, seed: Tensor, latent: int) -> Tensor:
        """Initial codes, (N, R, k), from one integer a sample."""
        codes = normal(seed, (self.restarts, latent))
        return codes / math.sqrt(latent) if self.init == "small" else codes


def squared_error(generator: nn.Module, z: Tensor, x: Tensor) -> Tensor:
    """The mean over pixels of (G(z) - x)^2, (N,)."""
    error: Tensor = (generator(z) - x).square().flatten(1).mean(dim=1)
    return error


def descend(
    generator: nn.Module, x: Tensor, start: Tensor, how: Projection, keep: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Run every restart of every image in one batch: the best codes (N, k), their errors (N,), and their path.

    x is (N, C, H, W), start (N, R, k). The path (keep, N, k) holds the codes before each of the last `keep`
    updates of the restart that won; with `keep` 0 it is empty. At most `ROWS` codes are in the generator at once.
    """
    x = x.detach()
    n, _, latent = start.shape
    z, velocity, alive = start, torch.zeros_like(start), _all_restarts(start)
    slope_of, path = _slope_of(generator, how, x.device), list[tuple[Tensor, Tensor]]()
    for iteration in range(how.updates):
        if how.updates - iteration <= keep:
            path.append((z, alive))
        errors, slope = _in_chunks(slope_of, z, x)
        velocity = how.momentum * velocity + slope
        z = z - how.rate(iteration) * velocity
        if iteration + 1 in how.cuts:
            z, velocity, alive = _best(how.cuts[iteration + 1], errors, z, velocity, alive)
    errors, _ = _in_chunks(lambda codes, images: (_error(generator, codes, images), codes), z, x)
    best = errors.argmin(dim=1)
    rows = torch.arange(n, device=x.device)
    winner = alive[rows, best]
    trail = [codes[rows, (left == winner[:, None]).int().argmax(dim=1)] for codes, left in path]
    return z[rows, best], errors.amin(dim=1), torch.stack(trail) if trail else z.new_zeros(0, n, latent)


def _slope_of(generator: nn.Module, how: Projection, device: torch.device) -> SlopeOf:
    """What gives errors and gradients of codes: a frozen generator's own way, else autograd."""
    if isinstance(generator, FrozenGenerator):
        return generator.slopes(torch.bfloat16 if how.bf16 and machine.multiplies_bfloat16(device) else None)

    def by_autograd(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        leaf = z.detach().requires_grad_()
        with torch.enable_grad():
            errors = squared_error(generator, leaf, x)
            (slope,) = torch.autograd.grad(errors.sum(), leaf)
        return errors.detach(), slope

    return by_autograd


def _in_chunks(of: SlopeOf, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The values (N, R) and rows (N, R, k) that `of` gives for codes (N, R, k), at most `ROWS` of them at once."""
    size = ROWS.get(z.device.type, ROWS["cpu"])
    image = torch.arange(len(x), device=x.device).repeat_interleave(z.shape[1])  # of each row
    pieces = [of(c, x[i]) for c, i in zip(z.flatten(0, 1).split(size), image.split(size), strict=True)]
    values, rows = (torch.cat(part) for part in zip(*pieces, strict=True))
    return values.view(z.shape[:2]), rows.view_as(z)


@torch.no_grad()
def _error(generator: nn.Module, z: Tensor, x: Tensor) -> Tensor:
    return squared_error(generator, z, x)


def _all_restarts(start: Tensor) -> Tensor:
    """The numbers of the restarts that are still run, (N, R)."""
    return torch.arange(start.shape[1], device=start.device).expand(start.shape[:2])


def _best(
    count: int, errors: Tensor, z: Tensor, velocity: Tensor, alive: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` restarts of each image with the smallest errors, in their old order."""
    kept = errors.topk(min(count, z.shape[1]), dim=1, largest=False).indices.sort(dim=1).values
    codes = kept[:, :, None].expand(-1, -1, z.shape[2])
    return z.gather(1, codes), velocity.gather(1, codes), alive.gather(1, kept)


class Unrolled(torch.autograd.Function):
    """The winning code as a function of the image, differentiated through the last K updates.

    The adjoint of momentum descent, walked backwards over stored codes: each step needs one Hessian-vector
    product of the winning restart alone, so memory is K codes and not K generator graphs, and the cost does
    not grow with the number of restarts. K = all updates gives the exact gradient (the choice of the winner
    is piecewise constant), a smaller K the truncated one.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, start: Tensor, generator: nn.Module, how: Projection, steps: int
    ) -> Tensor:
        """Project x (N, C, H, W) from start (N, R, k): the winning codes (N, k)."""
        z, _, path = descend(generator, x, start, how, keep=min(steps, how.updates))
        ctx.save_for_backward(x, path)
        ctx.generator, ctx.how = generator, how
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Walk the updates backwards: adjoints of the code and the velocity in, the image's gradient out."""
        x, path = ctx.saved_tensors
        how: Projection = ctx.how
        curvature = _curvature_of(ctx.generator)
        code, velocity, image = grads[0], torch.zeros_like(grads[0]), torch.zeros_like(x)
        for back in range(len(path) - 1, -1, -1):
            iteration = how.updates - len(path) + back
            velocity = velocity - how.rate(iteration) * code
            on_code, on_image = curvature(path[back], x, velocity)
            code, image = code + on_code, image + on_image
            velocity = how.momentum * velocity
        return image, None, None, None, None


def _curvature_of(generator: nn.Module) -> CurvatureOf:
    """What gives the products of v (N, k) with the error's second derivatives in (z, z) and (z, x).

    A frozen generator's own way, without autograd, else two backward passes.
    """
    if isinstance(generator, FrozenGenerator):
        return generator.slopes().curvature

    def by_autograd(z: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        z, x = z.detach().requires_grad_(), x.detach().requires_grad_()
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(squared_error(generator, z, x).sum(), z, create_graph=True)
            on_code, on_image = torch.autograd.grad((slope * v).sum(), (z, x))
        return on_code, on_image

    return by_autograd

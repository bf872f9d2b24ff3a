"""Projection on a generator's range by descent on the latent code, and its exact gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robustbench_gan.seeds import normal


@dataclass(frozen=True)
class Projection:
    """How Defense-GAN looks for the code nearest an image (Samangouei et al. 2018, eq. 8).

    Momentum descent on the mean squared error over pixels, from `restarts` random codes a sample. `init` draws
    them from N(0, 1/k) ("small", what the reference code does) or N(0, I) ("prior", what the generator was
    trained on). `decay` divides the rate by 10 after 80% of the iterations (stated in the paper, without
    effect in its code). `after_last` returns the image after the last update; the reference code returns the
    one before it. `prune` is no part of the published algorithm: after three and after six tenths of the
    iterations the worse half of an image's restarts is dropped, which nearly halves the cost.
    """

    iterations: int = 200
    restarts: int = 10
    lr: float = 10.0
    momentum: float = 0.7
    init: Literal["small", "prior"] = "small"
    decay: bool = False
    after_last: bool = False
    prune: bool = False

    @property
    def cuts(self) -> tuple[int, ...]:
        """The iterations after which the worse half of the restarts is dropped."""
        return (3 * self.iterations // 10, 3 * self.iterations // 5) if self.prune else ()

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
    updates of the restart that won; with `keep` 0 it is empty.
    """
    n, _, latent = start.shape
    z, velocity, alive = start, torch.zeros_like(start), _all_restarts(start)
    path: list[tuple[Tensor, Tensor]] = []
    for iteration in range(how.updates):
        if how.updates - iteration <= keep:
            path.append((z, alive))
        errors, slope = _slope(generator, z, x)
        velocity = how.momentum * velocity + slope
        z = z - how.rate(iteration) * velocity
        if iteration + 1 in how.cuts:
            z, velocity, alive = _better_half(errors, z, velocity, alive)
    with torch.no_grad():
        errors = squared_error(generator, z.flatten(0, 1), _repeated(x, z)).view(n, -1)
    best = errors.argmin(dim=1)
    rows = torch.arange(n, device=x.device)
    winner = alive[rows, best]
    trail = [codes[rows, (left == winner[:, None]).int().argmax(dim=1)] for codes, left in path]
    return z[rows, best], errors.amin(dim=1), torch.stack(trail) if trail else z.new_zeros(0, n, latent)


def _all_restarts(start: Tensor) -> Tensor:
    """The numbers of the restarts that are still run, (N, R)."""
    return torch.arange(start.shape[1], device=start.device).expand(start.shape[:2])


def _repeated(x: Tensor, z: Tensor) -> Tensor:
    """Each image once for each of its restarts, (N * R, C, H, W)."""
    return x.detach().repeat_interleave(z.shape[1], dim=0)


def _slope(generator: nn.Module, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Every restart's error (N, R) and its gradient in the code (N, R, k)."""
    leaf = z.flatten(0, 1).detach().requires_grad_()
    with torch.enable_grad():
        errors = squared_error(generator, leaf, _repeated(x, z))
        (slope,) = torch.autograd.grad(errors.sum(), leaf)
    return errors.detach().view(z.shape[:2]), slope.view_as(z)


def _better_half(errors: Tensor, z: Tensor, velocity: Tensor, alive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The half of each image's restarts (rounded up) with the smaller errors, in their old order."""
    half = -(-errors.shape[1] // 2)
    kept = errors.topk(half, dim=1, largest=False).indices.sort(dim=1).values
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
        code, velocity, image = grads[0], torch.zeros_like(grads[0]), torch.zeros_like(x)
        for back in range(len(path) - 1, -1, -1):
            iteration = how.updates - len(path) + back
            velocity = velocity - how.rate(iteration) * code
            on_code, on_image = _second_derivative(ctx.generator, path[back], x, velocity)
            code, image = code + on_code, image + on_image
            velocity = how.momentum * velocity
        return image, None, None, None, None


def _second_derivative(generator: nn.Module, z: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Products of v (N, k) with the error's second derivatives in (z, z) and (z, x)."""
    z, x = z.detach().requires_grad_(), x.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(squared_error(generator, z, x).sum(), z, create_graph=True)
        on_code, on_image = torch.autograd.grad((slope * v).sum(), (z, x))
    return on_code, on_image

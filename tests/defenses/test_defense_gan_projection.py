"""Defense-GAN's projection against a plain loop, its gradient against finite differences."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from planted import images, seeds
from rbg_defenses._projection import Projection, Unrolled, descend, squared_error
from rbg_defenses.defense_gan import DefenseGAN
from torch import nn

from robustbench_gan.nouns.seeds import normal

LATENT, SHAPE, N, RESTARTS = 3, (1, 2, 3), 4, 3


class Smooth(nn.Module):
    """A tiny generator without kinks, so that finite differences mean something."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first = nn.Parameter(torch.randn(5, LATENT, generator=generator))
        self.second = nn.Parameter(torch.randn(6, 5, generator=generator))

    def forward(self, z):
        return torch.sigmoid(torch.tanh(z @ self.first.T) @ self.second.T).reshape(-1, *SHAPE)


def plain(generator, x, start, *, lr, momentum, iterations, decay, after_last):
    """The reference code's loop for one image: every restart by itself, the best of what it returns."""
    best = None
    for z in start:
        velocity, before = torch.zeros_like(z), z
        for step in range(iterations):
            rate = lr * (0.1 if decay and step >= 0.8 * iterations else 1.0)
            leaf = z.clone().requires_grad_()
            error = (generator(leaf[None])[0] - x).square().mean()
            (slope,) = torch.autograd.grad(error, leaf)
            velocity = momentum * velocity + slope
            before, z = z, z - rate * velocity
        code = z if after_last else before  # the reference code returns the image before its last update
        with torch.no_grad():
            error = (generator(code[None])[0] - x).square().mean()
        if best is None or error < best[1]:
            best = (code, error)
    return best


PRESETS = {
    "ref": {"decay": False, "after_last": False},
    "paper": {"decay": True, "after_last": False},
    "clean": {"decay": False, "after_last": True},
}


@pytest.mark.parametrize("iterations", [1, 2, 7, 20])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_projection_is_the_plain_loop(preset, iterations):
    generator, x = Smooth().double(), images(N, SHAPE).double()
    how = Projection(iterations, RESTARTS, lr=1.5, momentum=0.7, **PRESETS[preset])
    start = how.start(seeds(N), LATENT).double()
    with torch.no_grad():
        z, error, _ = descend(generator, x, start, how)
    for i in range(N):
        code, least = plain(
            generator, x[i], start[i], lr=1.5, momentum=0.7, iterations=iterations, **PRESETS[preset]
        )
        assert torch.allclose(z[i], code, atol=1e-12) and torch.allclose(error[i], least, atol=1e-12)


def test_a_preset_means_what_it_says():
    def projection(preset, **more):
        return DefenseGAN(nn.Identity(), preset=preset, **more).projection

    ref, paper, clean = (projection(p) for p in ("ref", "paper", "clean"))
    assert (ref.iterations, ref.restarts, ref.lr, ref.momentum) == (200, 10, 10.0, 0.7)
    assert [(p.init, p.decay, p.after_last) for p in (ref, paper, clean)] == [
        ("small", False, False), ("small", True, False), ("prior", False, True)]  # fmt: skip
    assert (ref.updates, clean.updates) == (199, 200)
    assert [paper.rate(i) for i in (0, 159, 160, 199)] == [10.0, 10.0, 1.0, 1.0]
    assert (
        projection("ref", init="prior").init == "prior" and projection("clean", init="small").init == "small"
    )


def test_initial_codes_come_from_the_seed_and_have_the_stated_spread():
    small, prior = Projection(restarts=50, init="small"), Projection(restarts=50, init="prior")
    seed = seeds(40)
    assert torch.equal(prior.start(seed, 16), normal(seed, (50, 16)))
    assert torch.equal(small.start(seed, 16), prior.start(seed, 16) / 4)
    assert math.isclose(prior.start(seed, 16).std().item(), 1, rel_tol=0.02)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("iterations", [1, 2, 5, 12])
def test_the_gradient_through_every_update_is_the_derivative(preset, iterations):
    generator, x = Smooth().double(), images(2, SHAPE).double()
    how = Projection(iterations, RESTARTS, lr=1.5, momentum=0.7, **PRESETS[preset])
    start = how.start(seeds(2), LATENT).double()
    weights = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def value(at):
        z = Unrolled.apply(at, start, generator, how, how.updates)
        return (generator(z) * weights).sum()

    leaf = x.clone().requires_grad_()
    out = value(leaf)
    (grad,) = torch.autograd.grad(out, leaf) if out.requires_grad else (torch.zeros_like(x),)
    numeric = torch.zeros_like(x)
    with torch.no_grad():
        for i in range(x.numel()):
            step = torch.zeros(x.numel(), dtype=torch.float64)
            step[i] = 1e-5
            step = step.reshape(x.shape)
            numeric.view(-1)[i] = (value(x + step) - value(x - step)) / 2e-5
    assert torch.allclose(grad, numeric, rtol=1e-6, atol=1e-9)
    assert (numeric.abs().max() > 1e-4) == (how.updates > 0)


def unrolled_by_autograd(generator, x, start, how):
    """The same gradient with every update's graph kept: what the adjoint spares."""
    leaf = x.clone().requires_grad_()
    n, restarts, latent = start.shape
    target = leaf.repeat_interleave(restarts, dim=0)
    z = start.reshape(n * restarts, latent).clone().requires_grad_()
    velocity = torch.zeros_like(z)
    for iteration in range(how.updates):
        (slope,) = torch.autograd.grad(squared_error(generator, z, target).sum(), z, create_graph=True)
        velocity = how.momentum * velocity + slope
        z = z - how.rate(iteration) * velocity
    errors = squared_error(generator, z, target).view(n, restarts)
    return leaf, z[errors.argmin(dim=1) + torch.arange(n) * restarts]


def test_the_adjoint_is_autograd_through_the_whole_loop():
    generator, x = Smooth().double(), images(N, SHAPE).double()
    how = Projection(8, RESTARTS, lr=1.5, momentum=0.7)
    start = how.start(seeds(N), LATENT).double()
    leaf, z = unrolled_by_autograd(generator, x, start, how)
    (expected,) = torch.autograd.grad(generator(z).square().sum(), leaf)
    own = x.clone().requires_grad_()
    found = Unrolled.apply(own, start, generator, how, how.updates)
    assert torch.allclose(found, z, atol=1e-12)
    (grad,) = torch.autograd.grad(generator(found).square().sum(), own)
    assert torch.allclose(grad, expected, rtol=1e-8, atol=1e-12)


def test_truncated_is_full_when_it_covers_all_updates_and_less_when_not():
    generator, x = Smooth().double(), images(N, SHAPE).double()
    how = Projection(6, RESTARTS, lr=1.5, momentum=0.7)
    start = how.start(seeds(N), LATENT).double()

    def gradient(steps):
        leaf = x.clone().requires_grad_()
        z = Unrolled.apply(leaf, start, generator, how, steps)
        (grad,) = torch.autograd.grad(generator(z).square().sum(), leaf)
        return z, grad

    (z, full), (_, more), (same, one) = gradient(how.updates), gradient(how.updates + 10), gradient(1)
    assert torch.equal(full, more) and torch.equal(z, same) and not torch.allclose(full, one)
    # One step is -rate * d2E/dz dx by hand: the last update alone sees the image.
    _, _, path = descend(generator, x, start, how, keep=1)
    leaf, before = x.clone().requires_grad_(), path[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(squared_error(generator, before, leaf).sum(), before, create_graph=True)
    code = z.detach().requires_grad_()
    (towards,) = torch.autograd.grad(generator(code).square().sum(), code)
    (by_hand,) = torch.autograd.grad((-1.5 * slope * towards).sum(), leaf)
    assert torch.allclose(one, by_hand, rtol=1e-9)


def test_the_kept_path_is_the_winner_s_codes():
    generator, x = Smooth().double(), images(N, SHAPE).double()
    how = Projection(6, RESTARTS, lr=1.5)
    start = how.start(seeds(N), LATENT).double()
    z, _, path = descend(generator, x, start, how, keep=how.updates)
    assert path.shape == (5, N, LATENT)
    assert all(any(torch.equal(path[0, i], start[i, r]) for r in range(RESTARTS)) for i in range(N))
    shorter, _, _ = descend(generator, x, start, Projection(5, RESTARTS, lr=1.5))
    assert z.shape == shorter.shape and descend(generator, x, start, how)[2].shape == (0, N, LATENT)


def test_more_restarts_and_iterations_come_no_farther_from_the_image():
    generator, x = Smooth().double(), images(20, SHAPE).double()

    def error(iterations, restarts):
        how = Projection(iterations, restarts, lr=0.5, momentum=0.5, after_last=True)
        return descend(
            generator, x, Projection(restarts=8).start(seeds(20), LATENT).double()[:, :restarts], how
        )[1]

    assert (error(10, 8) <= error(10, 2) + 1e-12).all()
    assert error(50, 4).mean() < error(5, 4).mean() < error(1, 4).mean()


@pytest.mark.parametrize("keep", [2, 9])
def test_pruning_keeps_the_better_restarts_and_their_path(keep):
    """Against a loop over images and restarts that keeps 60, 30 and 20% after a tenth, a quarter and a half."""
    torch.manual_seed(3)
    generator = nn.Sequential(
        nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4), nn.Unflatten(1, (1, 2, 2))
    ).double()
    generator.requires_grad_(False)
    x, start = torch.rand(5, 1, 2, 2, dtype=torch.float64), torch.randn(5, 4, 3, dtype=torch.float64)
    how = Projection(iterations=10, restarts=4, lr=0.5, prune=True)
    assert how.cuts == {1: 3, 2: 2, 5: 1}
    found, errors, path = descend(generator, x, start, how, keep=keep)
    for i in range(5):
        runs = []  # one restart alone, to its end: codes before each update, and the error at each
        for r in range(4):
            _, _, codes = descend(
                generator, x[i : i + 1], start[i : i + 1, r : r + 1], replace(how, prune=False), 9
            )
            end, final, _ = descend(
                generator, x[i : i + 1], start[i : i + 1, r : r + 1], replace(how, prune=False)
            )
            at = [float(squared_error(generator, c, x[i : i + 1])) for c in codes]
            runs.append((codes[:, 0], at, end[0], float(final)))
        left = sorted(range(4), key=lambda r: runs[r][1][0])[:3]
        left = sorted(left, key=lambda r: runs[r][1][1])[:2]
        left = sorted(left, key=lambda r: runs[r][1][4])[:1]
        codes, _, end, final = runs[left[0]]
        assert torch.allclose(found[i], end) and abs(float(errors[i]) - final) < 1e-12
        assert torch.allclose(path[:, i], codes[-keep:])

"""The projection engine: memory, precision and pruning, and its differentiable forms through a real generator."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from planted import conv, images, seeds
from rbg_defenses import _projection
from rbg_defenses._frozen import FrozenGenerator
from rbg_defenses._projection import Projection, Unrolled, descend, squared_error
from rbg_defenses._wgan import Generator
from rbg_defenses.defense_gan import DefenseGAN
from torch import nn

from robustbench_gan.base import machine
from robustbench_gan.training.networks import freeze, fresh

SHAPE, LATENT, N = (1, 28, 28), 6, 3


def trained(width=4, spread=1.0):
    """A generator that was never trained, its last layer made steep, so that codes matter."""
    network = fresh(lambda: Generator(SHAPE, width, LATENT), 0)
    with torch.no_grad():
        network.linear.weight.mul_(4 * spread)
        network.up3.weight.mul_(10)
    return freeze(network)


class Plain(nn.Module):
    """Hides what kind of generator it is: the engine then takes autograd through its forward pass."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, z):
        return self.network(z)


def start_of(how, dtype=torch.float32):
    return how.start(seeds(N), LATENT).to(dtype)


@pytest.mark.parametrize("prune", [False, True])
@pytest.mark.parametrize("keep", [0, 4])
def test_the_exact_engine_is_autograd_s_descent(prune, keep):
    network, x = trained().double(), images(N, SHAPE).double()
    how = Projection(iterations=20, restarts=5, lr=3.0, prune=prune)
    start = start_of(how, torch.float64)
    found = descend(FrozenGenerator(network), x, start, how, keep)
    expected = descend(Plain(network), x, start, how, keep)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    assert (expected[1] < 0.98 * squared_error(network, start[:, 0], x)).all()  # it goes somewhere


def test_no_more_rows_than_the_cap_are_in_the_generator_at_once(monkeypatch):
    network, x = FrozenGenerator(trained()), images(N, SHAPE)
    how = Projection(iterations=4, restarts=5)
    whole = descend(network, x, start_of(how), how)
    seen = []
    count = type(network.slopes()).__call__
    monkeypatch.setattr(
        type(network.slopes()), "__call__", lambda self, z, x: seen.append(len(z)) or count(self, z, x)
    )
    network.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    monkeypatch.setitem(_projection.ROWS, "cpu", 4)
    pieces = descend(network, x, start_of(how), how)
    assert max(seen) == 4 and sum(seen) == 15 * 4  # three updates, then the choice
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, pieces, strict=True))


def test_pruning_costs_what_its_schedule_says(monkeypatch):
    how = Projection(iterations=200, restarts=10, prune=True)
    assert how.cuts == {20: 6, 50: 3, 100: 2}
    assert replace(how, prune=False).cuts == {}
    assert replace(how, init="prior").cuts == {20: 8, 50: 5, 100: 3}
    assert Projection(iterations=40, restarts=1, prune=True).cuts == {4: 1, 10: 1, 20: 1}
    left = [10] * 20 + [6] * 30 + [3] * 50 + [2] * 100
    assert sum(left) / 2000 == pytest.approx(0.365)
    rows = []
    network = trained()
    hidden = Plain(network)
    hidden.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    short = replace(how, iterations=20)
    descend(hidden, images(N, SHAPE), start_of(short), short)
    assert rows == [N * r for r in [10] * 2 + [6] * 3 + [3] * 5 + [2] * 9 + [2]]


def test_an_image_s_projection_does_not_depend_on_the_others_beside_it():
    network, x = FrozenGenerator(trained()), images(N, SHAPE)
    how = Projection(iterations=10, restarts=4, prune=True)
    start = start_of(how)
    z, error, _ = descend(network, x, start, how)
    for i in range(N):
        alone, least, _ = descend(network, x[i : i + 1], start[i : i + 1], how)
        assert torch.allclose(alone[0], z[i], atol=1e-4) and torch.allclose(least[0], error[i], atol=1e-5)


def test_bf16_descends_as_low_and_chooses_by_float32_errors(monkeypatch):
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda device: True)
    network = FrozenGenerator(trained(width=8))
    with torch.no_grad():
        x = network(seeds(N).double()[:, None].remainder(7).sub(3).repeat(1, LATENT).float() / 3)
    how = Projection(iterations=40, restarts=4, lr=3.0)
    exact, least, _ = descend(network, x, start_of(how), how)
    z, error, _ = descend(network, x, start_of(how), replace(how, bf16=True))
    assert not torch.equal(z, exact)
    assert torch.allclose(error, squared_error(network, z, x), rtol=1e-4)  # not the rounded error
    assert (error <= least * 1.1 + 1e-4).all()


def test_without_the_instruction_bf16_is_float32(monkeypatch):
    monkeypatch.setattr(machine, "multiplies_bfloat16", lambda device: False)
    network, x, how = FrozenGenerator(trained()), images(N, SHAPE), Projection(iterations=5, restarts=2)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            descend(network, x, start_of(how), replace(how, bf16=True)),
            descend(network, x, start_of(how), how),
            strict=True,
        )
    )
    assert isinstance(machine.multiplies_bfloat16(torch.device("cpu")), bool)


# ---- the differentiable forms, each against differences of its own definition


def smooth():
    """A whole defense in float64 whose generator has no kinks, a stand-in for the trained one."""
    defense = DefenseGAN(conv(3, (1, 2, 2)), iterations=6, restarts=2, lr=1.0, latent=3, width=1)
    torch.manual_seed(3)
    layers = (nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4), nn.Sigmoid(), nn.Unflatten(1, (1, 2, 2)))
    defense.generator = nn.Sequential(*layers)
    return freeze(defense.double())


def differences(value, x):
    """The derivative of a sum over samples, by central differences: (N, C, H, W)."""
    slope = torch.zeros_like(x)
    for i in range(x.numel()):
        step = torch.zeros(x.numel(), dtype=x.dtype)
        step[i] = 1e-5
        with torch.no_grad():
            slope.view(-1)[i] = (value(x + step.view_as(x)) - value(x - step.view_as(x))) / 2e-5
    return slope


def start(defense, x):
    return defense.projection.start(seeds(len(x)), 3).double()


@pytest.mark.parametrize("prune", [False, True])
def test_full_is_the_derivative_of_the_defended_logits(prune, monkeypatch):
    defense, x = smooth(), images(2, (1, 2, 2)).double()
    defense.projection = replace(defense.projection, prune=prune)
    monkeypatch.setattr(type(defense), "_start", lambda self, x, seed, how: start(self, x))

    def value(at):
        return defense(at, seeds(2)).logits[:, 1].sum()

    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(defense.attacked(leaf, seeds(2), "full", 0).logits[:, 1].sum(), leaf)
    assert torch.allclose(grad, differences(value, x), rtol=1e-5, atol=1e-9) and grad.abs().max() > 1e-4


@pytest.mark.parametrize("steps", [1, 3])
def test_truncated_is_the_derivative_of_the_last_updates_from_where_the_path_stood(steps, monkeypatch):
    defense, x = smooth(), images(2, (1, 2, 2)).double()
    monkeypatch.setattr(type(defense), "_start", lambda self, x, seed, how: start(self, x))
    how = defense.projection
    _, _, path = descend(defense.generator, x, start(defense, x), how, keep=how.updates)
    before = path[-steps]
    velocity = (path[-steps - 1] - before) / how.lr  # of the update that led there

    def value(at):
        z, v = before, velocity
        for _ in range(steps):
            leaf = z.clone().requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(squared_error(defense.generator, leaf, at).sum(), leaf)
            v = how.momentum * v + slope
            z = z - how.lr * v
        return defense.core(defense.generator(z))[:, 1].sum()

    leaf = x.clone().requires_grad_()
    out = defense.attacked(leaf, seeds(2), "truncated", steps).logits
    assert torch.allclose(out[:, 1].sum(), value(x), rtol=1e-9)
    (grad,) = torch.autograd.grad(out[:, 1].sum(), leaf)
    assert torch.allclose(grad, differences(value, x), rtol=1e-5, atol=1e-9) and grad.abs().max() > 1e-5


def test_bpda_is_the_derivative_of_the_classifier_at_the_reconstruction(monkeypatch):
    defense, x = smooth(), images(2, (1, 2, 2)).double()
    monkeypatch.setattr(type(defense), "_start", lambda self, x, seed, how: start(self, x))
    with torch.no_grad():
        rebuilt = defense.purify(x, seeds(2))
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(defense.attacked(leaf, seeds(2), "bpda", 0).logits[:, 1].sum(), leaf)
    expected = differences(lambda at: defense.core(at)[:, 1].sum(), rebuilt)
    assert torch.allclose(grad, expected, rtol=1e-6, atol=1e-9) and grad.abs().max() > 1e-4


def test_the_detector_s_gradient_is_the_derivative_of_the_least_error(monkeypatch):
    """At the end of a long descent; every way of differentiating the projection gives the same one."""
    defense = smooth()
    for layer in defense.generator:  # every direction of the code matters: the descent ends at the minimum
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, gain=1.5)
    with torch.no_grad():  # near what can be made, where there is a minimum
        x = defense.generator(seeds(2).remainder(5).sub(2)[:, None].double() * torch.tensor([0.3, -0.2, 0.4]))
        x = x + 0.1 * (images(2, (1, 2, 2)).double() - 0.5)
    monkeypatch.setattr(type(defense), "_start", lambda self, x, seed, how: start(self, x))
    defense.projection = replace(defense.projection, iterations=250, lr=10.0)
    defense.detect_fpr, defense.threshold = 0.1, torch.tensor(0.01, dtype=torch.float64)

    def value(at):
        return defense(at, seeds(2)).scores.sum()

    numeric = differences(value, x)
    for gradient in ("bpda", "truncated"):
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(defense.attacked(leaf, seeds(2), gradient, 5).scores.sum(), leaf)
        assert torch.allclose(grad, numeric, rtol=1e-3, atol=1e-4) and grad.abs().max() > 1e-2


def test_unrolling_goes_through_the_frozen_generator():
    network = FrozenGenerator(trained().double())
    x, how = images(1, SHAPE).double(), Projection(iterations=4, restarts=2, lr=1.0)
    weights = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = how.start(seeds(1), LATENT).double()

    def value(at):
        z = Unrolled.apply(at, start, network, how, how.updates)
        return (network(z) * weights).sum()

    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(value(leaf), leaf)
    direction = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        numeric = (value(x + 1e-6 * direction) - value(x - 1e-6 * direction)) / 2e-6
    assert torch.allclose((grad * direction).sum(), numeric, rtol=1e-4) and numeric.abs() > 1e-6


@pytest.mark.parametrize("shape", [SHAPE, (3, 32, 32)])
def test_curvature_without_autograd_is_autograd_s(shape):
    network = fresh(lambda: Generator(shape, 4, LATENT), 0)
    with torch.no_grad():
        network.up3.weight.mul_(10)
    frozen = FrozenGenerator(freeze(network.double()))
    z, v = (torch.randn(5, LATENT, generator=torch.Generator().manual_seed(s)).double() for s in (1, 2))
    x = images(5, shape).double()
    found = _projection._curvature_of(frozen)(z, x, v)
    expected = _projection._curvature_of(Plain(frozen))(z, x, v)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and torch.allclose(one, other, rtol=1e-9, atol=1e-14)
        assert other.abs().max() > 1e-6

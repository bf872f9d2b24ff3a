"""The fast form of a generator is the generator."""

from __future__ import annotations

import pytest
import torch
from rbg_defenses._frozen import FrozenGenerator
from rbg_defenses._wgan import Generator


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_values_and_gradients_are_those_of_the_trained_network(shape):
    torch.manual_seed(0)
    trained = Generator(shape, width=4, latent=6).double()
    frozen = FrozenGenerator(trained)
    z = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, *shape, dtype=torch.float64)
    assert frozen(z).shape == (5, *shape)
    assert torch.allclose(frozen(z), trained(z), atol=1e-12)
    slopes = [torch.autograd.grad((network(z) * weight).sum(), z)[0] for network in (trained, frozen)]
    assert torch.allclose(*slopes, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_slopes_are_what_autograd_gives_for_the_error(shape):
    torch.manual_seed(0)
    trained = Generator(shape, width=4, latent=6).double().requires_grad_(False)
    slopes = FrozenGenerator(trained).slopes()
    for count in (5, 2, 7):  # the buffers of one descent serve fewer rows, and then more
        z, x = (
            torch.randn(count, 6, dtype=torch.float64, requires_grad=True),
            torch.rand(count, *shape).double(),
        )
        expected = (trained(z) - x).square().flatten(1).mean(dim=1)
        (gradient,) = torch.autograd.grad(expected.sum(), z)
        errors, found = slopes(z.detach(), x)
        assert torch.allclose(errors, expected, rtol=1e-12) and torch.allclose(
            found, gradient, rtol=1e-9, atol=1e-15
        )


def test_bfloat16_slopes_point_the_same_way():
    torch.manual_seed(0)
    frozen = FrozenGenerator(Generator((1, 28, 28), width=16, latent=32).requires_grad_(False))
    z, x = torch.randn(20, 32), torch.rand(20, 1, 28, 28)
    errors, slope = frozen.slopes()(z, x)
    rough_errors, rough = frozen.slopes(torch.bfloat16)(z, x)
    assert rough.dtype == torch.float32 and rough_errors.dtype == torch.float32
    assert torch.allclose(rough_errors, errors, rtol=1e-2) and not torch.equal(rough, slope)
    assert (torch.cosine_similarity(rough, slope) > 0.99).all()

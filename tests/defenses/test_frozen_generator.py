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

"""The gradient of images through a first convolution is autograd's, and autograd's own is taken everywhere else."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustbench_gan.contracts import image_gradient
from robustbench_gan.contracts.image_gradient import gradient
from robustbench_gan.training.networks import freeze, fresh

CONVOLUTIONS = {
    "strided": ((1, 12, 12), lambda: nn.Conv2d(1, 5, 4, stride=2, padding=1)),
    "padded": ((3, 9, 11), lambda: nn.Conv2d(3, 5, 3, padding=2, bias=False)),
    "uneven": ((2, 9, 11), lambda: nn.Conv2d(2, 5, (3, 2), stride=(2, 3))),  # pixels that no patch reaches
    "same": ((1, 8, 8), lambda: nn.Conv2d(1, 5, 3, padding="same")),
    "dilated": ((1, 9, 9), lambda: nn.Conv2d(1, 5, 3, dilation=2)),
    "grouped": ((2, 9, 9), lambda: nn.Conv2d(2, 4, 3, groups=2)),
    "many channels": ((8, 9, 9), lambda: nn.Conv2d(8, 4, 3)),
    "transposed": ((1, 6, 6), lambda: nn.ConvTranspose2d(1, 4, 3, stride=2)),
}
TAKEN = ("strided", "padded", "uneven", "same")


def images(shape, n=7):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1)).requires_grad_()


def values(network, leaf):
    return network(leaf).square().flatten(1).sum(dim=1)


def ours(network, leaf):
    return gradient(values(network, leaf), leaf, retain=False)


def autograd(network, leaf):
    return torch.autograd.grad(values(network, leaf).sum(), leaf)[0]


@pytest.fixture
def products(monkeypatch):
    """How many convolutions were inverted by a matrix product."""
    done, inverted = [], image_gradient._to_image
    monkeypatch.setattr(image_gradient, "_to_image", lambda *given: (done.append(1), inverted(*given))[1])
    return done


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_it_is_autograds(name, products):
    shape, build = CONVOLUTIONS[name]
    network = freeze(fresh(lambda: nn.Sequential(build(), nn.Tanh()), 0))
    leaf = images(shape)
    torch.testing.assert_close(ours(network, leaf), autograd(network, leaf), rtol=1e-4, atol=1e-5)
    assert len(products) == (name in TAKEN)


def test_large_batches_go_in_pieces_and_a_sample_depends_on_no_other(products, monkeypatch):
    network = freeze(fresh(lambda: nn.Conv2d(1, 6, 3), 0))
    leaf = images((1, 10, 10))
    whole = ours(network, leaf)
    monkeypatch.setattr(image_gradient, "MOST_VALUES", 9 * 64 * 2)  # two images
    torch.testing.assert_close(ours(network, leaf), whole, rtol=1e-6, atol=1e-7)
    assert len(products) == 2


def test_an_image_that_enters_twice_gets_both_parts(products):
    two = freeze(fresh(lambda: nn.Conv2d(1, 4, 3), 0)), freeze(fresh(lambda: nn.Conv2d(1, 4, 3), 1))
    leaf = images((1, 8, 8))

    def both(x):
        return two[0](x) * two[1](x)

    torch.testing.assert_close(ours(both, leaf), autograd(both, leaf))
    assert len(products) == 2


def test_a_convolution_beside_another_way_is_left_to_autograd(products):
    network = freeze(fresh(lambda: nn.Conv2d(1, 1, 3, padding=1), 0))
    leaf = images((1, 8, 8))

    def around(x):
        return network(x) + x

    torch.testing.assert_close(ours(around, leaf), autograd(around, leaf))
    assert products == []


def test_of_no_images_it_is_none_at_all():
    network = freeze(fresh(lambda: nn.Conv2d(1, 4, 3), 0))
    assert ours(network, images((1, 8, 8), 0)).shape == (0, 1, 8, 8)


def test_no_path_is_no_gradient(products):
    leaf = images((1, 8, 8))
    assert gradient(torch.zeros(7), leaf, retain=False) is None
    assert gradient(values(nn.Conv2d(1, 2, 3), torch.zeros(7, 1, 8, 8)), leaf, retain=False) is None
    assert products == []


def test_a_graph_that_is_kept_can_be_gone_through_again():
    network = freeze(fresh(lambda: nn.Conv2d(1, 4, 3), 0))
    leaf = images((1, 8, 8))
    value = values(network, leaf)
    first = gradient(value, leaf, retain=True)
    assert torch.equal(first, gradient(value, leaf, retain=False))


def test_in_bfloat16_it_is_as_near_to_float32_as_autograds(products):
    network = freeze(
        fresh(lambda: nn.Sequential(nn.Conv2d(1, 5, 4, stride=2), nn.ReLU(), nn.Conv2d(5, 3, 3)), 0)
    )
    leaf = images((1, 12, 12))
    exact = autograd(network, leaf)

    def low(x):
        with torch.autocast("cpu", torch.bfloat16):
            return network(x).float()

    apart = [F.mse_loss(found, exact) for found in (ours(low, leaf), autograd(low, leaf))]
    assert apart[0] < 1.5 * apart[1]
    assert len(products) == 1

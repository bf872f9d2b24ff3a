"""Networks before and after training: drawn anew, frozen, their accuracy, device and recipe."""

from __future__ import annotations

import copy

import pytest
import torch
from planted import SHAPE, images, separable
from quick_training import DATA, QUICK, network
from torch import nn

from robustbench_gan.base.errors import UsageError
from robustbench_gan.models.resnet import resnet18
from robustbench_gan.models.schedule import Schedule
from robustbench_gan.training.loop import accuracy, classifier_recipe, cross_entropy, optimise
from robustbench_gan.training.networks import device_of, freeze, fresh, reinitialised


def test_accuracy_is_the_share_that_is_right():
    class Fixed(nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)

    assert accuracy(Fixed(), DATA.test) == (DATA.test.labels == 0).float().mean().item() == 0.5
    assert accuracy(Fixed(), DATA.test.take(DATA.test.labels == 1)) == 0.0
    big = separable(1203)
    assert accuracy(Fixed(), big.train) == 602 / 1203  # the last batch of evaluation counts too


def test_the_device_is_that_of_the_weights_or_the_cpu():
    assert device_of(nn.Linear(1, 1)) == torch.device("cpu")
    assert device_of(nn.Linear(1, 1, device="meta")) == torch.device("meta")
    assert device_of(nn.ReLU()) == torch.device("cpu")


def test_a_fresh_network_is_the_same_for_the_same_seed_whatever_came_before():
    torch.manual_seed(1)
    one = fresh(network, 4).state_dict()
    torch.manual_seed(2)
    same, other = fresh(network, 4).state_dict(), fresh(network, 5).state_dict()
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["1.weight"], other["1.weight"])


def test_reinitialising_forgets_all_that_was_learned():
    model = fresh(lambda: resnet18(SHAPE, 2, width=4), 0)
    untrained = copy.deepcopy(model)
    optimise(model, DATA.train, cross_entropy(model), Schedule(1, 32, 0.01), seed=0, description="learn")
    assert reinitialised(model, 9) is model
    reinitialised(untrained, 9)
    for name, value in untrained.state_dict().items():  # running statistics included
        assert torch.equal(model.state_dict()[name], value), name
    again = copy.deepcopy(model)
    reinitialised(again, 10)
    assert not torch.equal(again[1].weight, model[1].weight)


def test_a_frozen_network_has_no_gradients_and_drops_nothing():
    model = network(0.5)
    assert freeze(model) is model
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    x = images(3).requires_grad_()
    model(x).sum().backward()
    assert x.grad.ne(0).any()


def test_the_recipe_of_a_classifier_holds_everything_that_decides_it():
    def recipe(name="a", schedule=QUICK, data=DATA, seed=0, code="x"):
        return classifier_recipe(name, schedule, data, seed, code)

    changed = [
        recipe(name="b"),
        recipe(schedule=Schedule(5, 10, 0.02)),
        recipe(schedule=Schedule(4, 10, 0.02, one_cycle=False)),
        recipe(data=separable(65)),
        recipe(seed=1),
        recipe(code="y"),
    ]
    assert recipe() == recipe(data=separable()) and all(other != recipe() for other in changed)


def test_a_layer_that_cannot_be_drawn_anew_is_an_error_and_never_stays_trained():
    class Token(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.token = torch.nn.Parameter(torch.ones(3))

    with pytest.raises(UsageError, match="'0' cannot be trained anew"):
        reinitialised(torch.nn.Sequential(Token(), torch.nn.Linear(3, 2)), 0)

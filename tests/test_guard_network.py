"""What a network and its program are: what is compared of them, and what of torch is watched."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustbench_gan.base.tensors import same
from robustbench_gan.guards.seal import Seal
from robustbench_gan.guards.surroundings import Surroundings


def test_a_network_that_calls_its_layers_by_other_names_is_another_one():
    model = nn.ModuleDict({"first": nn.Linear(2, 2), "second": nn.Linear(2, 2)})
    seal = Seal(model, "the model")
    first, second = model["first"], model["second"]
    model._modules.clear()
    model._modules.update(second=first, first=second)
    assert seal.put_back() == ["the layers of the model"]
    assert model["first"] is first and model["second"] is second


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_programs_have_fields_of_their_own_kind():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    programs = [
        torch.jit.script(net), torch.jit.freeze(torch.jit.script(net)), torch.jit.trace(net, torch.rand(2, 4)),
        torch.compile(net, backend="eager"), torch.export.export(net, (torch.rand(2, 4),)).module(),
    ]  # fmt: skip
    for program in programs:
        seal = Seal(program, "it")
        assert seal.put_back() == []
    seal = Seal(programs[0], "it")
    with torch.no_grad():
        next(programs[0].parameters()).add_(1)
    assert len(seal.put_back()) == 1


def test_hooks_that_a_weight_came_with_are_its_own_and_others_are_taken_off():
    weight = nn.Linear(2, 2).weight
    model = nn.Module()
    model.weight = weight
    weight.register_hook(own := lambda grad: grad.clamp(-1, 1))
    seal = Seal(model, "the model")
    assert seal.put_back() == []
    weight.register_hook(lambda grad: grad * 0)
    assert seal.put_back() == ["the hooks of the model"]
    assert [*weight._backward_hooks.values()] == [own]


def test_bits_are_compared_whatever_the_layout():
    x = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    x[0, 0, 0, 0], x[1, 0, 0, 0] = torch.nan, 0.0
    other = x.clone()
    assert same(x, other) and same(x.to_sparse(), other.to_sparse())
    other[1, 0, 0, 0] = -0.0
    assert not same(x, other)
    other[1, 0, 0, 0], other[0, 0, 0, 0] = 0.0, 0.0  # no NaN any more
    assert (
        not same(x, other) and not same(x.to_sparse(), other.to_sparse()) and not same(x, other.to_sparse())
    )


def test_older_versions_of_torch_lack_some_of_what_is_watched(monkeypatch):
    fewer = SimpleNamespace(
        **{name: value for name, value in vars(torch._C._autograd).items() if "_top_saved" not in name}
    )
    monkeypatch.setattr(torch._C, "_autograd", fewer)
    assert Surroundings().put_back() == []

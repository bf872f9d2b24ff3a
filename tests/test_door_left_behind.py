"""A model comes back from the door as it went in, whatever it does with its inputs and its memory."""

from __future__ import annotations

import copy

import pytest
import torch
from answering import NET, REFUSED, UNPACKED, WANTED, Answers, K, N, X, Y, attacked, net
from planted import Scale, conv
from torch import nn

from robustbench_gan import run_attack
from robustbench_gan.base.errors import UsageError
from robustbench_gan.contracts.composition import Composed
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.models import door


def state(model):
    return [
        (name, m.training, len(m._forward_hooks), len(m._forward_pre_hooks))
        for name, m in model.named_modules()
    ] + [(name, p.requires_grad, p.grad is None, p.clone()) for name, p in model.named_parameters()]


@pytest.mark.parametrize("form", [UNPACKED["tuple"], UNPACKED["edits its input"], REFUSED["(N,)"][0]])
@pytest.mark.parametrize("defended", [False, True])
def test_a_model_leaves_as_it_came(form, defended):
    model = Answers(form, conv()).eval()
    given = Composed([Scale(model), Defense(model)]).eval() if defended else model
    before, held = state(given), [getattr(given, name, None) for name in ("base", "core")]
    try:
        run_attack("pgd:steps=2", given, X, Y, epsilons=0.1, gradient="auto" if defended else None)
    except UsageError:
        assert form is REFUSED["(N,)"][0]
    for one, other in zip(before, state(given), strict=True):
        assert one[:-1] == other[:-1] and (
            one[-1] == other[-1] if isinstance(one[-1], int) else torch.equal(one[-1], other[-1])
        )
    assert [getattr(given, name, None) for name in ("base", "core")] == held


def test_a_defense_around_a_program_or_a_tuple_is_attacked_as_around_the_network():
    want = run_attack("pgd:steps=20", Scale(net(), factor=0.9).eval(), X, Y, epsilons=0.1)
    for model in (torch.jit.trace(net(), X[:2]), Answers(UNPACKED["tuple"], net()).eval()):
        defense = Scale(model, factor=0.9).eval()
        found = run_attack("pgd:steps=20", defense, X, Y, epsilons=0.1)
        assert torch.equal(found.success, want.success) and defense.core is defense.base is model


@pytest.mark.parametrize("attack", ["noise", "square:queries=5", "pgd:steps=3"])
def test_a_model_that_edits_its_input_later_is_named_and_the_caller_s_images_stay(attack):
    given = X.clone()
    with pytest.raises(UsageError, match="the classifier edited its input in place"):
        run_attack(
            attack, Answers(lambda m, x: m(x if len(x) < 4 else x.mul_(0.5))).eval(), given, Y, epsilons=0.1
        )
    assert torch.equal(given, X)


def test_hooks_stay_in_a_copy_and_keep_the_names_of_the_weights():
    inside = door.admitted(Answers(UNPACKED["tuple"]))
    assert door.admitted(inside) is inside and len(inside._forward_hooks) == 1
    assert torch.equal(copy.deepcopy(inside)(X), NET(X))
    assert list(inside.state_dict()) == ["net.weight", "net.bias"]


class OwnCall(nn.Module):
    """Called by a way of its own, which goes around torch's hooks."""

    def __init__(self, form):
        super().__init__()
        self.net, self.form = NET, form

    def __call__(self, x):
        return self.form(self.net, x)


@pytest.mark.parametrize("name", ["dict", "edits its input", "(N, K, 1, 1)"])
def test_a_class_with_a_call_of_its_own_goes_through_the_door_as_well(name):
    found = attacked(OwnCall(UNPACKED[name]))
    assert torch.equal(found.success, WANTED.success) and torch.equal(found.examples, WANTED.examples)


class Reuses(nn.Module):
    """Answers in the same memory each time where no gradient is asked for."""

    def __init__(self):
        super().__init__()
        self.net, self.memory = NET, torch.zeros(N, K)

    def forward(self, x):
        z = self.net(x)
        if z.requires_grad:
            return z
        self.memory[: len(x)] = z
        return self.memory[: len(x)]


@pytest.mark.parametrize("batch_size", [5, N])
def test_answers_in_memory_that_is_used_again_are_not_taken_for_each_other(batch_size):
    found = attacked(Reuses(), batch_size=batch_size)
    with torch.no_grad():
        assert torch.equal(found.right, NET(X).argmax(dim=1) == Y)
        won = NET(found.examples[0]).argmax(dim=1) != Y
    assert torch.equal(found.success[0], won) and won.any() and not won.all()


class Grows(nn.Module):
    """Answers with other numbers of classes from the fourth call on."""

    def __init__(self, form):
        super().__init__()
        self.net, self.form, self.calls = NET, form, 0

    def forward(self, x):
        self.calls += 1
        return self.net(x) if self.calls < 4 else self.form(self.net(x))


@pytest.mark.parametrize("form", [lambda z: z[:, :2], lambda z: torch.cat([z, z[:, :1] + 9], dim=1)])
def test_a_number_of_classes_that_changes_is_refused(form):
    with pytest.raises(UsageError, match="the number of classes must not change"):
        attacked(Grows(form))


@pytest.mark.parametrize(
    "form",
    [
        lambda m, x: m(x.detach()),
        lambda m, x: m(x).detach().requires_grad_(),
        lambda m, x: torch.tensor(m(x).tolist()),
    ],
)
def test_a_model_without_a_gradient_is_told_what_to_do(form):
    with pytest.raises(UsageError, match=r"no gradient with respect to x.*such as square"):
        attacked(Answers(form))
    assert attacked(Answers(form), "square:queries=20").right.all()

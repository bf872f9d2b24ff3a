"""The door for classifiers: whatever holds logits is unpacked, and the rest is refused in a line."""

from __future__ import annotations

import copy

import pytest
import torch
from answering import NET, REFUSED, UNPACKED, WANTED, Answers, X, Y, attacked, net

from robustbench_gan import run_attack
from robustbench_gan.base.errors import UsageError
from robustbench_gan.models import door


@pytest.mark.parametrize("name", UNPACKED)
def test_an_answer_that_holds_logits_is_as_good_as_logits(name):
    found = attacked(Answers(UNPACKED[name]))
    assert torch.allclose(found.examples, WANTED.examples, atol=1e-6)
    assert torch.equal(found.success, WANTED.success) and found.success.any() and not found.success.all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("attack", ["pgd:steps=20", "apgd:steps=6", "square:queries=20", "deepfool", "jsma"])
def test_logits_of_another_precision_are_judged_as_float32(dtype, attack):
    norm = {"deepfool": "l2", "jsma": "l0"}.get(attack, "linf")
    model = Answers(lambda m, x: m(x).to(dtype))
    found = attacked(model, attack, norm=norm, epsilons=0.05 if norm == "linf" else 3)
    with torch.no_grad():
        won = model(found.examples[0]).float().argmax(dim=1) != Y
        tied = (
            model(found.examples[0]).float().topk(2).values.diff().abs()[:, 0] == 0
        )  # a tie is no right answer
    assert torch.equal(found.success[0], (won | tied) & (found.size[0] <= found.epsilons[0] + 1e-6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_held_in_another_precision_is_given_its_own(dtype):
    found = attacked(net(dtype=dtype))
    assert (found.success == WANTED.success).double().mean() > 0.9


def programs():
    plain = net()
    return {
        "scripted": lambda: torch.jit.script(plain),
        "traced": lambda: torch.jit.trace(plain, X[:2]),
        "frozen": lambda: torch.jit.freeze(torch.jit.script(plain)),
        "exported": lambda: exported(plain),
        "as exported": lambda: without_a_mode(torch.fx.symbolic_trace(plain)),
    }


def exported(model):
    dynamic = ({0: torch.export.Dim("n")},)
    return torch.export.export(model, (X[:3],), dynamic_shapes=dynamic).module()


def without_a_mode(graph):
    """As torch.export makes one: said to be in training, with an eval that raises."""
    graph.training = True

    def refuse():
        raise NotImplementedError("Calling eval() is not supported yet.")

    graph.eval = refuse
    return graph


NAMES = [pytest.param("exported", marks=pytest.mark.nightly), *sorted(programs().keys() - {"exported"})]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", NAMES)  # importing torch.export takes five seconds
def test_programs_work(name):
    made = programs()[name]()
    found = run_attack("pgd:steps=20", made, X, Y, epsilons=0.05)
    assert torch.equal(found.success, WANTED.success)
    inside = door.admitted(made)
    copied = copy.deepcopy(inside)
    assert list(inside.state_dict()) == list(made.state_dict()) == list(copied.state_dict())
    assert torch.allclose(copied(X), NET(X), atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("attack", ["pgd:steps=3", "square:queries=5"])
def test_what_is_no_logits_is_refused_in_a_line_that_says_what_to_do(name, attack):
    form, said = REFUSED[name]
    with pytest.raises(UsageError, match=said) as caught:
        attacked(Answers(form), attack)
    assert "\n" not in str(caught.value)


def test_models_without_values_and_from_inference_mode_are_refused():
    with pytest.raises(UsageError, match="meta device"):
        attacked(net(device="meta"))
    with torch.inference_mode():
        made = net()
        with pytest.raises(UsageError, match="inference_mode"):
            attacked(NET)
    with pytest.raises(UsageError, match="inference mode"):
        attacked(made)

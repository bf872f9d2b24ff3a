"""The door for classifiers: whatever holds logits is unpacked, the rest is refused in a line, nothing is left behind."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from planted import Linear, Scale, conv, images, seeds
from torch import Tensor, nn

from robustbench_gan import run_attack
from robustbench_gan.base.errors import NotANumber, UsageError
from robustbench_gan.contracts.composition import Composed
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.models import door
from robustbench_gan.nouns.outcome import Goal, Output, correct, unanswered

N, K = 12, 3
X = images(N)
NET = Linear(K).eval()
with torch.no_grad():
    NET.bias -= NET(X).mean(dim=0)  # or one class would win everywhere
    Y = NET(X).argmax(dim=1)
Pair = namedtuple("Pair", "loss logits")


@dataclass
class ModelOutput:
    logits: Tensor
    hidden: Tensor


class Answers(nn.Module):
    """A network whose answer is given another form."""

    def __init__(self, form, net=NET):
        super().__init__()
        self.net, self.form = net, form

    def forward(self, x):
        return self.form(self.net, x)


def attacked(model, attack="pgd:steps=20", **more):
    with torch.random.fork_rng(devices=[]):
        return run_attack(attack, model.eval(), X, Y, **{"epsilons": 0.05, **more})


WANTED = attacked(NET)

UNPACKED = {
    "tuple": lambda m, x: (m(x), x),
    "list of one": lambda m, x: [m(x)],
    "loss and logits": lambda m, x: (m(x).square().mean(), m(x)),
    "namedtuple": lambda m, x: Pair(None, m(x)),
    "dict": lambda m, x: {"logits": m(x), "features": m(x) * 2},
    "dict of one": lambda m, x: OrderedDict(out=m(x)),
    "dataclass": lambda m, x: ModelOutput(m(x), m(x)),
    "(N, K, 1, 1)": lambda m, x: m(x)[:, :, None, None],
    "parameter": lambda m, x: m(x).as_subclass(nn.Parameter),
    "edits its input": lambda m, x: m(x.mul_(1.0)),
    "edits it through data": lambda m, x: m((x.data.sub_(0.25), x + 0.25)[1]),
    "edits it through numpy": lambda m, x: (m(x), x.detach().numpy().fill(0.5))[0],
}


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


def net(**options):
    """The network with its weights in another precision or place."""
    made = nn.Sequential(nn.Flatten(), nn.Linear(16, K, **options))
    if options.get("device") != "meta":
        with torch.no_grad():
            made[1].weight.copy_(NET.weight)
            made[1].bias.copy_(NET.bias)
    return made.eval()


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


REFUSED = {
    "(N,)": (lambda m, x: m(x)[:, 0], "one number an image is no class; give two logits"),
    "(N, 1)": (lambda m, x: m(x)[:, :1], "one number an image is no class; give two logits"),
    "(N, 1, 1, 1)": (lambda m, x: m(x)[:, :1, None, None], "give two logits"),
    "(K, N)": (lambda m, x: m(x).T, "one row an image"),
    "segmentation": (lambda m, x: m(x)[:, :, None, None].expand(-1, -1, 2, 2), "one column a class"),
    "classes": (lambda m, x: m(x).argmax(1), "what comes before argmax"),
    "one-hot": (lambda m, x: nn.functional.one_hot(m(x).argmax(1), K), "what comes before argmax"),
    "bool": (lambda m, x: m(x) > 0, "what comes before argmax"),
    "complex": (lambda m, x: m(x).to(torch.complex64), "return real numbers"),
    "sparse": (lambda m, x: m(x).to_sparse(), "to_dense"),
    "(N, 1, K)": (lambda m, x: m(x)[:, None], r"logits\[:, 0\]"),
    "None": (lambda m, x: None, "answers NoneType"),
    "numpy": (lambda m, x: m(x).detach().numpy(), "ndarray"),
    "text": (lambda m, x: "cat", "answers str"),
    "two of one form": (lambda m, x: (m(x), m(x)), "which are the logits"),
    "dict of two": (lambda m, x: {"a": m(x), "b": m(x)}, "which are the logits"),
    "empty tuple": (lambda m, x: (), "answers tuple"),
    "logits that are none": (lambda m, x: {"logits": m(x).argmax(1)}, "int64 within a dict"),
    "raises": (lambda m, x: m(x) @ m(x), "fails on 2 clean images.*RuntimeError"),
    "squeezed": (lambda m, x: m(x).squeeze(0), r"answers \(3,\).*for 1 images"),
    "two classes for three": (lambda m, x: m(x)[:, :2], "y holds 2"),
}


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


# ---- no answer


def other_than_clean(value, only=slice(None)):
    """NaN, or whatever, for all that is no clean image."""
    clean = {tuple(row.tolist()) for row in X.flatten(1)}

    def form(m, x):
        known = torch.tensor([tuple(row.tolist()) in clean for row in x.flatten(1)])
        out = m(x).clone()
        out[:, only] = torch.where(known[:, None], out[:, only], value)
        return out

    return Answers(form)


@pytest.mark.parametrize("attack", ["noise", "pgd:steps=20", "square:queries=10", "fgsm"])
@pytest.mark.parametrize(
    ("value", "only"),
    [
        (math.nan, slice(None)),
        (math.nan, slice(1)),
        (math.inf, slice(None)),
        (math.inf, slice(1)),
        (-math.inf, slice(None)),
    ],
)
def test_no_answer_to_what_is_no_clean_image_is_no_robustness(attack, value, only):
    with pytest.raises(UsageError, match="NaN or infinity"):
        attacked(other_than_clean(value, only), attack)


def test_no_answer_to_clean_images_is_said_of_them():
    with pytest.raises(UsageError, match="NaN or infinity to clean images"):
        attacked(Answers(lambda m, x: m(x) * math.nan))
    with pytest.raises(UsageError, match="-infinity for the true class of 4 clean images"):
        hidden = Y.mode().values
        assert int((hidden == Y).sum()) >= 4
        mask = torch.zeros(N, K, dtype=torch.bool)
        mask[(hidden == Y).nonzero()[:4, 0], hidden] = True
        known = {tuple(row.tolist()): m for row, m in zip(X.flatten(1), mask, strict=True)}
        attacked(Answers(lambda m, x: torch.stack([
            row.masked_fill(known.get(tuple(at.tolist()), torch.zeros(K, dtype=torch.bool)), -math.inf)
            for row, at in zip(m(x), x.flatten(1), strict=True)
        ])), "noise")  # fmt: skip


def test_what_counts_as_no_answer():
    inf, nan = math.inf, math.nan
    logits = torch.tensor(
        [[0.0, 1, 2], [nan, 0, 0], [inf, 0, 0], [-inf, 0, 0], [0, -inf, 0], [-inf] * 3, [inf, -inf, 0]]
    )
    y = torch.zeros(len(logits), dtype=torch.int64)
    assert unanswered(Output.of(logits)).tolist() == [False, True, True, False, False, True, True]
    assert unanswered(Output.of(logits), y).tolist() == [False, True, True, True, False, True, True]
    scored = Output(logits[:1].expand(3, 3), torch.tensor([[nan], [inf], [-inf]]))
    assert unanswered(scored).tolist() == [True, False, False]


def test_a_view_says_so_at_once_but_not_of_an_input_that_is_no_number_itself():
    view = View.on(Bare(Answers(lambda m, x: m(x).log())), seeds(N))
    with pytest.raises(NotANumber):
        view.output(X)
    assert View.on(Bare(NET), seeds(N)).output(X * math.nan).logits.isnan().all()


MASKED = torch.tensor([False, True, False])


@pytest.mark.parametrize("masked", [
    lambda m, x: m(x).masked_fill(MASKED, -math.inf), lambda m, x: m(x) + torch.where(MASKED, -math.inf, 0.0),
], ids=["filled", "added"])  # fmt: skip
@pytest.mark.parametrize("attack", ["pgd:steps=20", "cw-bounded:steps=20", "deepfool"])
def test_a_masked_class_is_legal_and_the_attack_is_that_on_the_others(masked, attack):
    """The same network with the class left out is the same problem."""
    model, norm = Answers(masked), "linf" if attack.startswith("pgd") else "l2"
    with torch.no_grad():
        y = model(X).argmax(dim=1)
    found = run_attack(attack, model.eval(), X, y, norm=norm, epsilons=0.2)
    without = Answers(lambda m, x: m(x)[:, [0, 2]])
    fewer = run_attack(attack, without.eval(), X, y // 2, norm=norm, epsilons=0.2)
    assert found.right.all() and found.success.any()
    assert (found.success == fewer.success).all()
    assert found.median_size == pytest.approx(fewer.median_size, rel=0.02)


def test_margins_and_gradients_of_masked_classes_are_numbers():
    view = View.on(Bare(Answers(lambda m, x: m(x).masked_fill(MASKED, -math.inf))), seeds(N))
    y = torch.zeros(N, dtype=torch.int64)
    for goal in (Goal.untargeted(y), Goal.targeted(y + 1), Goal.targeted(y + 2)):
        for loss in (goal.loss, goal.margin):
            _, grad, out = view.value_and_grad(loss, X)
            assert grad.isfinite().all()
        reached = goal.reached(out)
        answered = NET(X)[:, [0, 2]].argmax(dim=1) * 2  # by the two classes that are left
        assert torch.equal(reached, answered != y if goal.kind == "untargeted" else answered == goal.classes)
    assert view.jacobian(X)[0].isfinite().all()
    assert torch.equal(correct(view.output(X), y), NET(X)[:, [0, 2]].argmax(dim=1) == 0)


# ---- what is left behind


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

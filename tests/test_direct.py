"""run_attack: the documented call, what it refuses, and that its numbers are the judge's."""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import SHAPE, Detector, Linear, Noise, Scale, conv, flatter, images, plant
from safetensors import safe_open
from torch import Tensor, nn

from robustbench_gan import Attacked, read_examples, run_attack
from robustbench_gan.api.run_attack import RedFlag, Suspect
from robustbench_gan.base.errors import NotApplicable, UsageError
from robustbench_gan.cell.craft import AttackFault
from robustbench_gan.contracts.composition import Composed
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget, norm_of
from robustbench_gan.nouns.outcome import Goal, Output
from robustbench_gan.nouns.spec import Spec

pytestmark = pytest.mark.filterwarnings("ignore::robustbench_gan.api.run_attack.RedFlag")
ROOT = Path(__file__).parents[1]
N = 40
TESTED = re.compile(r"^<!-- tested -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

PLANTED = """
import torch
from robustbench_gan.contracts.attacks import attack

CALLS, SEEN = [], []

@attack(norms=("l2",), needs="gradient", minimal=True, targeted=False, paper="planted")
def closest(view, x, goal, budget, seed, *, beyond: float = 1.01):
    "Steps just over the boundary of two linear classes: the closed form."
    CALLS.append(budget.eps)
    margin, grad, out = view.value_and_grad(goal.margin, x)
    return x - beyond * (margin / grad.flatten(1).square().sum(1)).reshape(-1, 1, 1, 1) * grad

@attack(norms=("linf",), needs="gradient", paper="planted")
def believes(view, x, goal, budget, seed):
    "One signed step, and what the view answers there with a gradient."
    _, grad, out = view.value_and_grad(goal.loss, x)
    at = (x + budget.eps * budget.steepest(grad)).clamp(0, 1)
    _, _, out = view.value_and_grad(goal.loss, at)
    SEEN.append((view.fast, out.logits, at))
    return at

@attack(norms=("linf",), needs="nothing", paper="planted")
def leaps(view, x, goal, budget, seed):
    "Leaves the ball."
    return (x + 2 * budget.eps).clamp(0, 1)

@attack(norms=("linf",), needs="gradient", paper="planted")
def stands(view, x, goal, budget, seed):
    "Returns the image."
    view.output(x)
    return x.clone()

@attack(norms=("linf",), needs="gradient", paper="planted")
def shy(view, x, goal, budget, seed):
    "Moves, and never asks for a gradient."
    view.output(x)
    return (x + budget.eps).clamp(0, 1)

@attack(norms=("linf",), needs="nothing", paper="planted")
def edits(view, x, goal, budget, seed):
    "Moves the image it was given."
    x += 0.01
    return x
"""


@pytest.fixture
def planted(plugin_path):
    lines = [
        f"{name} = planted_direct:{name}"
        for name in ("closest", "believes", "leaps", "edits", "stands", "shy")
    ]
    points = "\n".join(["[robustbench_gan.attacks]", *lines])
    plant(plugin_path, "planted-direct", points, {"planted_direct.py": PLANTED})
    import planted_direct

    return planted_direct


@pytest.fixture(params=["linear", "conv"])
def setting(request) -> tuple[nn.Module, Tensor, Tensor]:
    model = Linear().eval() if request.param == "linear" else steep()
    x = images(N)
    return model, x, labels(model, x)


def steep() -> nn.Module:
    """A small convolutional network whose answer is not the same for every image."""
    model, x = conv(), images(N)
    with torch.no_grad():
        model[-1].weight *= 4
        model[-1].bias -= model(x).mean(dim=0)
    return model


def labels(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


def two_classes() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model of two classes and images far enough from the edges that the box never binds."""
    model, x = Linear(2).eval(), images(N) * 0.2 + 0.4
    with torch.no_grad():
        model.bias -= model(x).mean(dim=0)
        model.weight *= 0.1
        model.bias *= 0.1
    return model, x, labels(model, x)


# ---- the documented call


def test_the_documented_call(setting):
    model, x, y = setting
    given = x.clone()
    found = run_attack("pgd:steps=10", model, x, y, norm="linf", epsilons=[0.05, 0.2])
    assert isinstance(found, Attacked) and torch.equal(x, given)
    assert found.examples.shape == (2, N, *SHAPE) and found.success.shape == found.size.shape == (2, N)
    assert found.norm == "linf" and found.epsilons == (0.05, 0.2) and found.right.all()
    for eps, made, size, success in zip(
        found.epsilons, found.examples, found.size, found.success, strict=True
    ):
        assert ((made >= 0) & (made <= 1)).all() and Budget("linf", eps).contains(made - x).all()
        assert torch.allclose(size, norm_of(made - x, "linf"))
        assert torch.equal(success, labels(model, made) != y)
    assert found.success[1].any() and not found.success[0].all()


def test_on_a_linear_model_it_wins_exactly_where_a_win_exists():
    model, x, y = two_classes()
    with torch.no_grad():
        logits, reach = model(x), (model.weight[0] - model.weight[1]).abs().sum()
    gap = (logits.amax(dim=1) - logits.amin(dim=1)).double()
    eps = float(gap.median() / reach)  # half of the samples can be won
    found = run_attack("fgsm", model, x, y, epsilons=[eps])
    sure = (gap / reach - eps).abs() > 1e-5
    assert torch.equal(found.success[0][sure], (gap < eps * reach)[sure]) and 15 <= found.success.sum() <= 25


@pytest.mark.parametrize("attack", ["fgsm", "pgd:steps=5", "pgd:steps=5,restarts=2"])
def test_success_only_grows_with_eps(setting, attack):
    epsilons = [0.0, 0.02, 0.05, 0.1, 0.2, 0.4]
    found = run_attack(attack, *setting, epsilons=epsilons)
    rates = found.success.double().mean(dim=1)
    assert not found.success[0].any() and found.success[-1].any()
    if attack != "fgsm" or isinstance(setting[0], Linear):  # one long step may go past the boundary and back
        assert (rates.diff() >= 0).all()


def test_robust_accuracy_has_n_and_an_interval_and_wants_a_right_image(setting):
    model, x, y = setting
    wrong = y.clone()
    wrong[:10] = (wrong[:10] + 1) % 3  # the model errs on these ten
    found = run_attack("pgd:steps=5", model, x, wrong, epsilons=[0.0, 0.1, 1.0])
    assert torch.equal(found.right, torch.arange(N) >= 10)
    for at, robust in enumerate(found.robust_accuracy):
        assert robust.value == pytest.approx(float((found.right & ~found.success[at]).double().mean()))
        assert robust.n == N and robust.low <= robust.value <= robust.high
    assert found.robust_accuracy[0].value == 0.75 and found.robust_accuracy[0].low > 0.5


def test_the_batch_size_only_groups_and_the_seed_decides(setting):
    model, x, y = setting
    whole = run_attack("pgd:steps=3", model, x, y, epsilons=[0.1], seed=3)
    parts = run_attack("pgd:steps=3", model, x, y, epsilons=[0.1], seed=3, batch_size=7)
    assert torch.allclose(whole.examples, parts.examples, atol=1e-5)
    assert torch.equal(whole.forward, parts.forward)
    other = run_attack("pgd:steps=3", model, x, y, epsilons=[0.1], seed=4)
    assert not torch.allclose(whole.examples, other.examples, atol=1e-3)


def test_passes_are_counted_a_sample(setting):
    found = run_attack("fgsm", *setting, epsilons=[0.1, 0.2])
    assert found.forward.shape == (2, N) and (found.forward == 1).all() and (found.backward == 1).all()


# ---- targets


def test_targets_are_reached_and_another_class_is_no_success(setting):
    model, x, y = setting
    targets = (y + 1) % 3
    found = run_attack("pgd:steps=20", model, x, y, epsilons=[0.5], targets=targets)
    assert torch.equal(found.success[0], labels(model, found.examples[0]) == targets)
    assert found.success.double().mean() > 0.5
    targets[:3] = y[:3]
    with pytest.raises(UsageError, match="3 of 40 targets are the true class"):
        run_attack("pgd:steps=20", model, x, y, epsilons=[0.5], targets=targets)


# ---- minimal-norm attacks


def test_a_minimal_attack_runs_once_and_serves_every_budget(planted):
    model, x, y = two_classes()
    epsilons = [0.1, 0.5, 2.0, math.inf]
    found = run_attack("closest", model, x, y, norm="l2", epsilons=epsilons)
    (eps,) = planted.CALLS
    assert eps == math.inf
    weight = model.weight.detach()
    with torch.no_grad():
        logits = model(x)
    optimum = (logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).norm()
    assert torch.allclose(found.size[0], 1.01 * optimum, rtol=1e-3)
    for eps, success in zip(epsilons, found.success, strict=True):
        assert torch.equal(success, found.size[0] <= eps)
    assert (found.examples == found.examples[0]).all() and (found.forward == 1).all()
    assert found.median_size == pytest.approx(float(np.median(found.size[0])))


def test_the_median_is_of_the_largest_budget_whatever_the_order(planted):
    model, x, y = two_classes()
    run = [run_attack("closest", model, x, y, norm="l2", epsilons=e) for e in ([0.1, 9.0], [9.0, 0.1])]
    assert run[0].median_size == run[1].median_size
    assert math.isnan(run_attack("closest", model, x, y, norm="l2", epsilons=[0.0]).median_size)


def test_an_attack_with_a_budget_runs_once_for_each(setting):
    one = run_attack("pgd:steps=4", *setting, epsilons=[0.1])
    two = run_attack("pgd:steps=4", *setting, epsilons=[0.02, 0.1])
    assert torch.equal(one.examples[0], two.examples[1])


# ---- a defense in the model's place


def test_a_defense_is_attacked_through_its_purifier():
    model, x = Linear().eval(), images(N)
    defense = Scale(model, factor=0.5).eval()
    y = labels(model, x * 0.5)
    found = run_attack("pgd:steps=10", defense, x, y, epsilons=[0.3])
    assert found.right.all() and found.success.any()
    assert torch.equal(found.success[0], labels(model, found.examples[0] * 0.5) != y)


def test_the_gradient_of_a_defense_can_be_chosen():
    model, x = Linear().eval(), images(N)
    defense = Scale(model, factor=0.5, stand_in=-1.0).eval()  # its surrogate leads the wrong way
    y = labels(model, x * 0.5)
    full = run_attack("fgsm", defense, x, y, epsilons=[0.2])
    bpda = run_attack("fgsm", defense, x, y, epsilons=[0.2], gradient="bpda")
    assert not torch.equal(full.examples, bpda.examples)


def test_a_rejected_example_is_no_success_and_a_rejected_image_not_robust():
    model, x = Linear().eval(), images(N) * 0.6
    rejects = Detector(model, threshold=0.0).eval()  # everything
    found = run_attack("pgd:steps=5", rejects, x, labels(model, x), epsilons=[0.3])
    assert not found.success.any() and not found.right.any() and found.robust_accuracy[0].value == 0


def test_a_random_defense_is_judged_on_seeds_the_attack_did_not_see():
    model, x = Linear().eval(), images(N)
    defense = Noise(model, sigma=0.3).eval()
    runs = [run_attack("pgd:steps=5", defense, x, labels(model, x), epsilons=[0.1]) for _ in range(2)]
    assert torch.equal(runs[0].success, runs[1].success)
    assert (runs[0].forward == 6).all()  # an answer is no proof: nobody stops early


# ---- fast


@pytest.mark.usefixtures("bfloat16")
def test_fast_is_judged_in_float32(planted):
    model, x, y = two_classes()
    with torch.no_grad():
        logits = model(x)
        gap = (logits.amax(dim=1) - logits.amin(dim=1)) / (model.weight[0] - model.weight[1]).abs().sum()
    eps = float(gap.median())  # many samples end within bfloat16's error of the boundary
    found = run_attack("believes", model, x, y, epsilons=[eps], fast=True)
    fast, logits, at = planted.SEEN[0]
    with torch.no_grad():
        exact = model(at)
    assert fast and not torch.allclose(logits, exact, atol=1e-5, rtol=0)  # what it saw was bfloat16's
    assert torch.equal(found.success[0], exact.argmax(dim=1) != y)
    run_attack("believes", model, x, y, epsilons=[eps])
    slow, logits, at = planted.SEEN[1]
    with torch.no_grad():
        assert not slow and torch.allclose(logits, model(at), atol=1e-5)


def test_fast_finds_what_float32_finds():
    model, x = steep(), images(N)
    y = labels(model, x)
    slow, fast = (
        run_attack("pgd:steps=20", model, x, y, epsilons=[0.02], fast=f).success.double().mean()
        for f in (False, True)
    )
    assert 0 < slow < 1 and abs(slow - fast) <= 0.05


# ---- what is refused


class Reentrant(Linear):
    """Autograd cannot be asked for the gradient by its input alone."""

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=True)


class Nowhere(torch.autograd.Function):
    """Gives no gradient on its way back, as operators do that have none."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


class Lost(nn.Sequential):
    """A convolution, whose answer is then lost to autograd."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x):
        return Nowhere.apply(super().forward(x))


BAD = {
    "no module": ({"model": lambda x: x}, "function"),
    "training": ({"model": Linear()}, r"model\.eval\(\)"),
    "x is a list": ({"x": [1.0]}, "x is list"),
    "x flat": ({"x": torch.rand(N, 16)}, r"x is \(40, 16\)"),
    "x double": ({"x": images(N).double()}, "x is .*float64"),
    "x empty": ({"x": images(N)[:0], "y": torch.zeros(0, dtype=torch.int64)}, r"x is \(0, 1, 4, 4\)"),
    "x bytes": ({"x": images(N) * 255}, r"spans \[.*25\d.*\[0, 1\]"),
    "x below": ({"x": images(N) - 0.5}, r"spans \[-0\.\d+"),
    "x nan": ({"x": images(N).index_fill(0, torch.tensor([3]), math.nan)}, r"spans .*nan"),
    "y short": ({"y": torch.zeros(3, dtype=torch.int64)}, r"y is \(3,\).*expected \(40,\) int64"),
    "y float": ({"y": torch.zeros(N)}, r"y is .*float32.*int64: write y.long\(\)"),
    "y one-hot": ({"y": torch.zeros(N, 3, dtype=torch.int64)}, r"y is \(40, 3\).*y.argmax\(1\)"),
    "x on meta": ({"x": torch.zeros(N, 1, 4, 4, device="meta")}, "x lies on the meta device"),
    "y list": ({"y": [0] * N}, r"y is list.*write torch.as_tensor\(y\).long\(\)"),
    "a target": ({"targets": 1}, r"targets is int.*write torch.full\(\(40,\), 1\)"),
    "x uint8": ({"x": torch.zeros(N, *SHAPE, dtype=torch.uint8)}, "uint8.*write x.float\\(\\) / 255"),
    "one image": ({"x": images(N)[0]}, r"write x\[None\]"),
    "nan": ({"attack": "pgd:step=nan"}, "step=nan is not a float"),
    "lazy": ({"model": nn.Sequential(nn.Flatten(), nn.LazyLinear(3)).eval()}, "lazy layer"),
    "a way back that fails": ({"model": Reentrant().eval()}, "way back.*use_reentrant.*square"),
    "a way back that is lost": (
        {"model": Lost().eval(), "x": torch.rand(N, 1, 16, 16)},
        r"no gradient.*quantised.*square",
    ),
    "targets short": ({"targets": torch.zeros(3, dtype=torch.int64)}, r"targets is \(3,\)"),
    "no budgets": ({"epsilons": []}, r"epsilons=\[\]"),
    "batch size": ({"batch_size": 0}, "batch_size=0"),
    "norm": ({"norm": "l3"}, "l3.*linf"),
    "negative eps": ({"epsilons": [-0.1]}, r"eps=-0\.1"),
    "nan eps": ({"epsilons": [math.nan]}, "eps=nan"),
    "eps of 255": ({"epsilons": [8.0]}, "8/255"),
    "attack": ({"attack": "pdg"}, "pdg.*pgd"),
    "parameter": ({"attack": "pgd:step_count=3"}, "step_count.*steps"),
    "value": ({"attack": "pgd:steps=many"}, "steps.*many"),
    "no steps": ({"attack": "pgd:steps=0"}, "steps >= 1"),
    "no attack": ({"attack": len}, "the attack is a builtin"),
    "x of numpy": (
        {"x": np.zeros((N, 1, 4, 4), "f4")},
        r"x is ndarray, not a torch tensor: torch\.from_numpy",
    ),
    "y of numpy": ({"y": np.zeros(N, int)}, r"y is ndarray, not a torch tensor"),
    "x above by rounding": ({"x": torch.full((N, *SHAPE), 1.0000002)}, r"1\.0000002.*x\.clamp\(0, 1\)"),
    "half a batch": ({"batch_size": 2.5}, r"batch_size=2\.5 is no whole number"),
    "half a seed": ({"seed": 0.5}, r"seed=0\.5 is no whole number"),
    "no budget": ({"epsilons": None}, "eps=None is no radius"),
    "one is none": ({"epsilons": [0.1, None]}, "eps=None is no radius"),
    "no number": ({"epsilons": "eight"}, "eps=eight is no radius"),
    "y elsewhere": ({"y": torch.zeros(N, dtype=torch.int64, device="meta")}, "y lies on meta and x on cpu"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_name(case):
    changes, said = BAD[case]
    model, x = Linear().eval(), images(N)
    given = {"attack": "pgd:steps=2", "model": model, "x": x, "y": labels(model, x), "epsilons": [0.1]}
    given.update(changes)
    if case == "training":
        given["model"].train()
    attack, *rest = (given.pop(name) for name in ("attack", "model", "x", "y"))
    with pytest.raises(UsageError, match=f"(?s){said}"):
        run_attack(attack, *rest, **given)


@pytest.mark.parametrize("around", ["float64", "autocast", "no_grad"])
def test_what_the_caller_has_set_decides_no_number(setting, around):
    model, x, y = setting
    ask = {"norm": "linf", "epsilons": [0.05, 0.1], "seed": 1}
    want = run_attack("pgd:steps=5", model, x, y, **ask)
    try:
        if around == "float64":
            torch.set_default_dtype(torch.float64)
        with {"autocast": torch.autocast("cpu", torch.bfloat16), "no_grad": torch.no_grad()}.get(
            around, contextlib.nullcontext()
        ):
            got = run_attack("pgd:steps=5", model, x, y, **ask)
            assert torch.get_default_dtype() == (torch.float64 if around == "float64" else torch.float32)
            assert torch.is_autocast_enabled("cpu") == (around == "autocast")
    finally:
        torch.set_default_dtype(torch.float32)
    assert got.examples.equal(want.examples) and got.success.equal(want.success)


def test_calls_of_several_threads_are_as_one_after_the_other(setting):
    def call(seed):
        return run_attack("pgd:steps=20", *setting, epsilons=[0.05], seed=seed).examples

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(call, range(3)))
    assert all(made.equal(call(seed)) for seed, made in enumerate(together))


def test_what_stands_within_a_module_must_be_fitted_too_and_trained_on_classes_there_are(setting):
    model, x, y = setting
    kind, parameters = registry.resolve("defenses", Spec.parse("magnet"))

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = kind(model, **parameters)

        def forward(self, x):
            return self.inner(x, torch.zeros(len(x), dtype=torch.int64)).logits

    with pytest.raises(UsageError, match="MagNet is not fitted"):
        run_attack("fgsm", Around().eval(), x, y, epsilons=[0.1])
    with pytest.raises(UsageError, match="train's y holds 9"):
        run_attack("advgan:steps=1", model, x, y, epsilons=[0.1], train=(x, torch.full_like(y, 9)))


def test_labels_made_in_inference_mode_are_labels(setting):
    model, x, y = setting
    with torch.inference_mode():
        given = y.clone()
    assert run_attack("fgsm", model, x, given).success.equal(run_attack("fgsm", model, x, y).success)


def test_one_layer_in_training_mode_is_enough_to_be_refused():
    model = nn.Sequential(conv(), nn.Dropout()).eval()
    model[1].train()
    with pytest.raises(UsageError, match="training"):
        run_attack("fgsm", model, images(N), torch.zeros(N, dtype=torch.int64), epsilons=[0.1])


def test_what_an_attack_does_not_have_is_not_applicable(planted):
    model, x, y = two_classes()
    with pytest.raises(NotApplicable, match=r"closest.*l2.*linf"):
        run_attack("closest", model, x, y, norm="linf")
    with pytest.raises(NotApplicable, match=r"closest.*targeted"):
        run_attack("closest", model, x, y, norm="l2", targets=1 - y)
    with pytest.raises(NotApplicable, match="finite"):
        run_attack("pgd", model, x, y)


@pytest.mark.parametrize("cheat", ["leaps", "edits"])
def test_an_attack_that_cheats_gets_no_number(planted, cheat):
    model, x, y = two_classes()
    given = x.clone()
    with pytest.raises(AttackFault):
        run_attack(cheat, model, x, y, epsilons=[0.005])
    assert torch.equal(x, given)


# ---- radii, norms and gradients in the words of users


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("8/255", (8 / 255,)), (0.1, (0.1,)), (["8/255", 0.1], (8 / 255, 0.1)), (np.array([0.1, 0.2]), (0.1, 0.2)),
        (torch.tensor([0.25, 0.5]), (0.25, 0.5)), (torch.tensor(0.25), (0.25,)), ((0.1, " 1/5 "), (0.1, 0.2)),
    ],
    ids=str,
)  # fmt: skip
def test_budgets_may_be_one_or_several_in_any_form(setting, given, means):
    found = run_attack("fgsm", *setting, epsilons=given)
    assert found.epsilons == pytest.approx(means) and found.success.shape == (len(means), N)


def test_norms_may_be_numbers(setting):
    for norm, meant in ((2, "l2"), ("2", "l2"), (math.inf, "linf"), (np.inf, "linf"), ("L2", "l2")):
        found = run_attack("fgsm", *setting, norm=norm, epsilons=0.3)
        assert found.norm == meant and torch.equal(
            found.examples, run_attack("fgsm", *setting, norm=meant, epsilons=0.3).examples
        )


def test_auto_tries_every_gradient_and_keeps_the_stronger_example_of_each_sample():
    """The surrogate leads the wrong way for some images and the full gradient is cut for the others."""

    class Halved(Scale):
        def purify(self, x, seed):
            bright = x.mean(dim=(1, 2, 3), keepdim=True) > 0.5
            return torch.where(bright, x.detach(), x) * self.factor

        def surrogate(self, x, seed):
            bright = x.detach().mean(dim=(1, 2, 3), keepdim=True) > 0.5
            return torch.where(bright, x, -x) * self.stand_in

    model, x = flatter().eval(), images(N)
    defense = Halved(model, factor=0.9).eval()
    y = labels(model, x * 0.9)
    full, bpda, auto = (
        run_attack("pgd:steps=20", defense, x, y, epsilons=0.2, gradient=g) for g in ("full", "bpda", "auto")
    )
    assert torch.equal(auto.success, full.success | bpda.success)
    assert auto.success.sum() > max(int(full.success.sum()), int(bpda.success.sum())) > 0
    assert (auto.forward > full.forward).any()  # what both took, and the choice
    won, margins = full.success[0], []
    assert torch.equal(auto.examples[0][won], full.examples[0][won])  # won is won: it is not tried again
    for found in (full, bpda, auto):
        with torch.no_grad():
            margins.append(Goal.untargeted(y).margin(Output.of(model(found.examples[0] * 0.9))))
    assert torch.equal(margins[2][~won], torch.maximum(margins[0], margins[1])[~won])


def test_what_is_no_gradient_of_this_model_is_refused():
    model, x, y = two_classes()
    for gradient in ("full", "auto", "cut", "bpda"):
        with pytest.raises(UsageError, match="bare Linear: leave it out"):
            run_attack("fgsm", model, x, y, epsilons=0.1, gradient=gradient)
    for given in (model, Scale(model).eval()):
        with pytest.raises(UsageError, match=r"'foo'.*auto, bpda, full, truncated"):
            run_attack("fgsm", given, x, y, epsilons=0.1, gradient="foo")


def test_a_defense_that_was_not_fitted_is_refused_by_name():
    class Learns(Scale):
        def fit(self, data, seed, store):
            self.factor = 1.0

    model, x, y = two_classes()
    for given in (Learns(model), Composed([Scale(model), Learns(model)])):
        with pytest.raises(UsageError, match=r"^Learns is not fitted"):
            run_attack("fgsm", given.eval(), x, y, epsilons=0.1)
        given.fit(None, 0, None)
        assert run_attack("fgsm", given.eval(), x, y, epsilons=0.1).right.any()


def test_labels_and_targets_without_a_class_are_named():
    model, x, y = two_classes()
    for value in (-1, -100, 2):
        for name in ("y", "targets"):
            wrong = (y if name == "y" else 1 - y).clone()
            wrong[3] = value
            given = {"y": wrong} if name == "y" else {"y": y, "targets": wrong}
            with pytest.raises(UsageError, match=f"{name} holds {value}, and 1 of 40 are outside of 0 to 1"):
                run_attack("fgsm", model, x, **given, epsilons=0.1)


# ---- red flags


def flags_of(found):
    return {flag.id: flag.severity for flag in found.flags}


def saturated(x):
    model = steep()
    return nn.Sequential(model, Times(1e6), nn.Softmax(dim=1)).eval(), x, labels(model, x)


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def test_gradients_that_are_all_zero_are_flagged_and_warned_of_once():
    model, x, y = saturated(images(N))
    with pytest.warns(RedFlag) as caught:
        found = run_attack("deepfool", model, x, y, norm="l2", epsilons=[1.0, 5.0])
    assert found.robust_accuracy[1].value == 1 and found.suspect
    raised = flags_of(found)
    assert (
        raised["zero-gradient"] == raised["no-perturbation"] == raised["probabilities-as-logits"] == "invalid"
    )
    said = [str(w.message) for w in caught]
    assert len(said) == len(set(said)) == len([f for f in found.flags if f.severity != "note"])
    assert all("\n" not in line for line in said) and caught[0].filename == __file__
    with pytest.raises(Suspect, match="zero-gradient"):
        run_attack("deepfool", model, x, y, norm="l2", epsilons=5.0, strict=True)


def test_honest_calls_raise_no_flag_and_warn_of_nothing(setting):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run_attack("pgd:steps=20", *setting, epsilons=[0.1, 0.2], strict=True)
    assert found.flags == () and not found.suspect


def test_an_attack_that_does_nothing_is_flagged(planted):
    model, x, y = two_classes()
    still, shy = (run_attack(name, model, x, y, epsilons=0.1) for name in ("stands", "shy"))
    assert flags_of(still) == {"no-perturbation": "invalid", "no-backward": "invalid"}
    assert flags_of(shy) == {"no-backward": "invalid"}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_flags_are_those_of_evaluate(norm):
    """Batch-coupled, noisy and detached systems, each by its own flag."""
    model, x = steep(), images(N)
    y, budget = labels(model, x), {"norm": norm, "epsilons": 0.1}

    class Coupled(nn.Module):
        def forward(self, x):
            return model(x - x.mean(dim=0, keepdim=True) + 0.5)

    class Drops(nn.Module):
        def forward(self, x):
            return model(nn.functional.dropout(x, 0.2, training=True))

    assert (
        flags_of(run_attack("pgd:steps=20", Coupled().eval(), x, y, **budget))["batch-dependent"] == "invalid"
    )
    assert (
        flags_of(run_attack("pgd:steps=20", Drops().eval(), x, y, **budget))["always-on-dropout"] == "invalid"
    )
    noisy = Noise(model, sigma=0.1).eval()
    raised = flags_of(run_attack("pgd:steps=20", noisy, x, y, **budget))
    assert raised["single-seed"] == raised["no-eot"] == "warning"


# ---- the result


def test_the_median_size_is_of_images_that_had_to_be_attacked(planted):
    model, x, y = two_classes()
    wrong = y.clone()
    wrong[:15] = 1 - wrong[:15]  # nothing need be changed for these
    found = run_attack("closest", model, x, wrong, norm="l2", epsilons=9.0)
    assert found.median_size == pytest.approx(float(np.median(found.size[0][15:])))
    assert math.isnan(run_attack("closest", model, x, 1 - y, norm="l2", epsilons=9.0).median_size)


def test_it_prints_in_a_few_lines_of_numbers():
    model, x, y = saturated(images(N))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = run_attack("deepfool", model, x, y, norm="l2", epsilons=["1/4", 2])
    lines = str(found).splitlines()
    assert (
        lines[0]
        == f"deepfool in l2, untargeted, on {N} images, {N} of them right unperturbed: SUSPECT, see the flags"
    )
    assert lines[1].startswith("  eps 0.25: robust accuracy 1.000 [0.912, 1.000] (n = 40), goal reached 0")
    assert len(lines) == 4 + len(found.flags) and any("invalid: zero-gradient" in line for line in lines)
    assert "tensor" not in str(found) and repr(found) == str(found)


def test_what_is_saved_comes_back(setting, tmp_path):
    found = run_attack("pgd:steps=20", *setting, epsilons=["8/255", 0.2], targets=(setting[2] + 1) % 3)
    found.save(tmp_path / "new" / "found.safetensors")
    with safe_open(tmp_path / "new" / "found.safetensors", "pt") as file:
        back, facts = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    for name in ("examples", "success", "size", "right", "forward", "backward", "labels", "targets"):
        assert torch.equal(back.pop(name), getattr(found, name))
    assert not back
    read = read_examples(tmp_path / "new" / "found.safetensors")
    assert read.examples.equal(found.examples) and read.labels.equal(found.labels)
    assert read.more["success"].equal(found.success) and read.facts["norm"] == "linf"
    assert facts["attack"] == "pgd:steps=20" and facts["norm"] == "linf"
    assert [float(eps) for eps in json.loads(facts["epsilons"])] == [8 / 255, 0.2]
    assert [r["value"] for r in json.loads(facts["robust_accuracy"])] == [
        r.value for r in found.robust_accuracy
    ]
    assert json.loads(facts["suspect"]) is found.suspect and json.loads(facts["versions"])["torch"]
    with pytest.raises(UsageError, match="is a directory"):
        found.save(tmp_path)


# ---- what surrounds it


def test_nothing_is_left_behind_in_the_model(setting):
    model, x, y = setting
    before = [p.detach().clone() for p in model.parameters()]
    run_attack("pgd:steps=2", model, x, y, epsilons=[0.1])
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_importing_the_package_does_not_import_torch():
    code = (
        "import sys, robustbench_gan; assert 'torch' not in sys.modules; "
        "from robustbench_gan import run_attack; assert 'torch' in sys.modules; print(run_attack.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0 and done.stdout.strip() == "run_attack", done.stderr


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import robustbench_gan

    with pytest.raises(AttributeError, match="run_atack"):
        _ = robustbench_gan.run_atack


def test_the_marked_code_of_the_readme_runs(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = TESTED.findall(text)
    assert len(blocks) == text.count("<!-- tested -->") > 0
    monkeypatch.chdir(tmp_path)
    for code in blocks:
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})

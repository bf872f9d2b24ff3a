"""What `run_attack` refuses, in a line that names it, and what the caller has set that decides nothing."""

from __future__ import annotations

import contextlib
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from called_models import N, labels, planted_for_calls, setting_of_calls, two_classes  # noqa: F401 - fixtures
from planted import SHAPE, Linear, conv, images
from torch import nn

from robustbench_gan import run_attack
from robustbench_gan.base.errors import NotApplicable, UsageError
from robustbench_gan.cell.craft import AttackFault
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.spec import Spec

pytestmark = pytest.mark.filterwarnings("ignore::robustbench_gan.api.run_attack.RedFlag")


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


def test_labels_and_targets_without_a_class_are_named():
    model, x, y = two_classes()
    for value in (-1, -100, 2):
        for name in ("y", "targets"):
            wrong = (y if name == "y" else 1 - y).clone()
            wrong[3] = value
            given = {"y": wrong} if name == "y" else {"y": y, "targets": wrong}
            with pytest.raises(UsageError, match=f"{name} holds {value}, and 1 of 40 are outside of 0 to 1"):
                run_attack("fgsm", model, x, **given, epsilons=0.1)

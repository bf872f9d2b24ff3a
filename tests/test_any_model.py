"""run_attack on generated models, labels and budgets: a right answer, recomputed in plain torch, or one line.

What is right is written here a second time, without the door, the goal, the budget or the judge.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustbench_gan import run_attack
from robustbench_gan.base.errors import UsageError

SHAPE, PIXELS = (1, 2, 3), 6
UNPACKED = {
    "tensor": lambda z, x: z,
    "tuple": lambda z, x: (z, x),
    "list": lambda z, x: [x, None, z],
    "dict": lambda z, x: {"logits": z, "features": z},
    "object": lambda z, x: SimpleNamespace(logits=z, loss=z.float().sum()),
    "(N, K, 1, 1)": lambda z, x: z[:, :, None, None],
}
REFUSED = {
    "transposed": lambda z, x: z.T,
    "classes": lambda z, x: z.float().argmax(dim=1),
    "one number": lambda z, x: z[:, 0],
    "pixels": lambda z, x: z[:, :, None, None].expand(-1, -1, 2, 3),
    "None": lambda z, x: None,
    "two": lambda z, x: (z, z),
}
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
EPSILONS = {"8/255": 8 / 255, "0.1": 0.1, "inf": math.inf, 0: 0.0, 0.3: 0.3, np.float64(0.2): 0.2}
BAD_EPSILONS = (None, "", "eight", -0.1, math.nan, "8/0", [], [None], True)
ATTACKS = {
    "noise": math.inf,
    "fgsm": math.inf,
    "pgd:steps=2": math.inf,
    "square:queries=3": math.inf,
    "deepfool": 2,
}
WRITTEN = {math.inf: ("linf", math.inf, "inf", "Linf"), 2: ("l2", 2, "2", np.int64(2))}


@dataclass
class Case:
    """One call, in parts."""

    form: str
    dtype: torch.dtype
    classes: int
    n: int
    poison: float
    masked: int | None
    edits: bool
    attack: str
    norm: Any
    eps: Any
    labels: str
    targets: str
    seed: int


class Generated(nn.Module):
    """A linear classifier with whatever the case does to its answer."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(case.seed)
        self.case = case
        self.weight = nn.Parameter(torch.randn(PIXELS, case.classes, generator=generator))

    def logits(self, x: Tensor) -> Tensor:
        """The answer as it is meant, in its own type."""
        z = (x - 0.5).flatten(1) @ self.weight
        if self.case.masked is not None:
            z = z.masked_fill(torch.arange(self.case.classes) == self.case.masked, -math.inf)
        if self.case.poison:
            z = torch.where(torch.arange(self.case.classes) == 0, self.case.poison, z)
        return z.nan_to_num().to(self.case.dtype) if self.case.dtype is torch.int64 else z.to(self.case.dtype)

    def forward(self, x: Tensor) -> Any:
        forms = UNPACKED | REFUSED
        answer = forms[self.case.form](self.logits(x), x)
        if self.case.edits:
            x.data.mul_(0.5)
        return answer


SOUND = {
    "form": st.sampled_from(sorted(UNPACKED)),
    "dtype": st.sampled_from(DTYPES[:-1]),
    "classes": st.integers(2, 4),
    "n": st.integers(1, 5),
    "poison": st.just(0.0),
    "masked": st.sampled_from([None, None, None, 0, 1]),
    "edits": st.booleans(),
    "attack": st.sampled_from(sorted(ATTACKS)),
    "norm": st.integers(0, 3),
    "eps": st.sampled_from(list(EPSILONS)),
    "labels": st.sampled_from(["answers", "any"]),
    "targets": st.sampled_from(["none", "next"]),
    "seed": st.integers(0, 2**16),
}
FAULTS = {
    "form": st.sampled_from(sorted(REFUSED)),
    "dtype": st.just(torch.int64),
    "classes": st.just(1),
    "poison": st.sampled_from([math.nan, math.inf]),
    "eps": st.sampled_from(BAD_EPSILONS),
    "labels": st.sampled_from(["-1", "-100", "K"]),
    "targets": st.sampled_from(["equal", "K", "-100"]),
}


@st.composite
def cases_of(draw: Any) -> Case:
    """A sound call in half of the cases, one or two things wrong in the others."""
    faults = draw(st.one_of(st.just([]), st.lists(st.sampled_from(sorted(FAULTS)), min_size=1, max_size=2)))
    return Case(**{name: draw(FAULTS[name] if name in faults else value) for name, value in SOUND.items()})


cases = cases_of()


def wrong(case: Case, y: Tensor, targets: Tensor | None) -> bool:
    """Must the call end in a line?"""
    if case.form in REFUSED or not case.dtype.is_floating_point or case.classes < 2 or case.poison:
        return True
    if not isinstance(case.eps, str | float | int) or isinstance(case.eps, bool) or case.eps not in EPSILONS:
        return True
    if case.targets in ("equal", "K", "-100") or case.labels in ("-1", "-100", "K"):
        return True
    assert targets is None or not (targets == y).any()
    return case.masked is not None and bool((y == case.masked).any())


def goal_reached(z: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
    """Recomputed sample by sample: the largest logit, alone, is the target's; or it is not the label's alone."""
    found = []
    for at, row in enumerate(z.double().tolist()):
        aim = int(y[at]) if targets is None else int(targets[at])
        alone = all(row[aim] > other for k, other in enumerate(row) if k != aim)
        found.append(not alone if targets is None else alone)
    return torch.tensor(found)


def check(case: Case) -> None:
    norm = ATTACKS[case.attack]
    x = torch.rand(case.n, *SHAPE, generator=torch.Generator().manual_seed(case.seed))
    model, kept = Generated(case).eval(), x.clone()
    with torch.no_grad():
        z = model.logits(x).float()
    y = z.nan_to_num().argmax(dim=1)
    if case.labels == "any":
        y = (y + 1) % case.classes
    elif case.labels != "answers":
        y[-1] = case.classes if case.labels == "K" else int(case.labels)
    targets = {"none": None, "next": (y + 1) % case.classes, "equal": (y + 1) % case.classes}.get(
        case.targets, y.clone()
    )
    if targets is not None and case.targets != "next":
        targets[0] = {"equal": int(y[0]), "K": case.classes, "-100": -100}[case.targets]
    give = {"norm": WRITTEN[norm][case.norm], "epsilons": case.eps, "targets": targets}
    if case.attack != "deepfool" and case.eps in ("inf",):
        give["epsilons"] = 0.25  # a ball without end is for attacks that look for the smallest
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = run_attack(case.attack, model, x, y, **give)
    except UsageError as error:
        assert wrong(case, y, targets), error
        assert str(error) and "\n" not in str(error)
        return
    finally:
        assert torch.equal(x, kept) and not model._forward_hooks and not model._forward_pre_hooks
    assert not wrong(case, y, targets), found
    eps = EPSILONS[give["epsilons"]] if give["epsilons"] in EPSILONS else give["epsilons"]
    made = found.examples[0]
    assert made.dtype is torch.float32 and made.amin() >= 0 and made.amax() <= 1
    size = (made - x).double().flatten(1).norm(p=norm, dim=1)
    with torch.no_grad():
        after = model.logits(made.clone())
    won = goal_reached(after, y, targets) & (size <= eps * (1 + 1e-6) + 1e-6)
    right = ~goal_reached(z, y, None)
    assert torch.equal(found.success[0], won) and torch.equal(found.right, right)
    assert found.robust_accuracy[0].value == pytest.approx(float((right & ~won).double().mean()))
    assert torch.allclose(found.size[0].double(), size, atol=1e-6)


QUIET = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=100, **QUIET)
@given(cases)
def test_any_model_gets_a_right_answer_or_a_line(case):
    check(case)


@pytest.mark.nightly
@settings(max_examples=2000, **QUIET)
@given(cases)
def test_many_models_get_a_right_answer_or_a_line(case):
    check(case)


def test_both_ends_are_common():
    """The cases are neither all refused nor all answered."""
    ends = []

    @settings(max_examples=100, **QUIET)
    @given(cases)
    def count(case):
        ends.append(
            case.form in UNPACKED and case.dtype.is_floating_point and case.classes > 1 and not case.poison
        )

    count()
    assert 0.3 < sum(ends) / len(ends) < 0.9

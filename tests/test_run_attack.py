"""`run_attack`: the documented call, targets, minimal attacks, and that nothing is left behind."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from called_models import N, labels, planted_for_calls, setting_of_calls, two_classes  # noqa: F401 - fixtures
from planted import SHAPE, Linear

from robustbench_gan import Attacked, run_attack
from robustbench_gan.base.errors import UsageError
from robustbench_gan.nouns.budget import Budget, norm_of

pytestmark = pytest.mark.filterwarnings("ignore::robustbench_gan.api.run_attack.RedFlag")
ROOT = Path(__file__).parents[1]
TESTED = re.compile(r"^<!-- tested -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


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

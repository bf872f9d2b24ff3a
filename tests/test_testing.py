"""What helps plugins to be tested: sound ones pass, and each fault is named."""

from __future__ import annotations

import pytest
import torch
from planted import Noise

from robustbench_gan.base.tensors import Meddled
from robustbench_gan.cell.craft import AttackFault
from robustbench_gan.contracts import Defense, attack
from robustbench_gan.seeds import uniform
from robustbench_gan.testing import check_attack, check_defense, tiny_classifier, tiny_data


def made(function, **facts):
    return attack(**{"norms": ("linf",), "needs": "gradient", "paper": "none", **facts})(function)


def steepest(view, x, goal, budget, seed):
    _, grad, _ = view.value_and_grad(goal.loss, x)
    return (x + budget.eps * budget.steepest(grad)).clamp(0, 1)


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 8, 8)])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_tiny_classifier_is_right_on_all_of_the_tiny_data(shape, classes):
    data = tiny_data(shape, classes)
    assert data.shape == shape and len(data.classes) == classes
    for split in (data.train, data.validation, data.test):
        assert torch.equal(tiny_classifier(data)(split.pixels()).argmax(dim=1), split.labels)


@pytest.mark.parametrize("given", [made(steepest), "fgsm", "deepfool"])
def test_a_sound_attack_passes_and_tells_what_it_did(given):
    found = check_attack(given)
    assert found["linf untargeted"].success.all() and "linf targeted" in found


def stands_still(view, x, goal, budget, seed):
    view.labels(x)
    return x.clone()


def uphill(view, x, goal, budget, seed):
    return (2 * x - steepest(view, x, goal, budget, seed)).clamp(0, 1)


def draws_elsewhere(view, x, goal, budget, seed):
    moved = steepest(view, x, goal, budget, seed)
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, moved, x)


def looks_beside(view, x, goal, budget, seed):
    moved = steepest(view, x, goal, budget, seed)
    return moved if len(x) > 10 else x.clone()


def leaves(view, x, goal, budget, seed):
    return x + 2 * budget.eps


def edits(view, x, goal, budget, seed):
    return x.mul_(0.5)


def needs_a_number(view, x, goal, budget, seed, *, steps):
    return x.clone()


@pytest.mark.parametrize(
    ("function", "error", "says"),
    [
        (stands_still, AssertionError, "stands_still, linf untargeted: .*no-perturbation"),
        (draws_elsewhere, AssertionError, "linf untargeted: global-generator"),
        (looks_beside, AssertionError, "a second run in batches of 7 finds something else"),
        (leaves, AttackFault, "leave the"),
        (edits, AttackFault, "edited its input in place"),
        (needs_a_number, AssertionError, "steps has no default"),
    ],
)
def test_what_is_wrong_with_an_attack_is_named(function, error, says):
    with pytest.raises(error, match=says):
        check_attack(made(function))


def test_an_attack_must_win_something():
    with pytest.raises(AssertionError, match="uphill wins no image in any norm"):
        check_attack(made(uphill, targeted=False), tiny_data(classes=2))


def test_a_control_need_not_win():
    assert not check_attack("noise")["linf untargeted"].success.any()


class Trained(Defense):
    """Darkens images by a number that it learns, and counts how often."""

    purifies, trainings = True, 0
    forgets, names = False, ("level",)

    def fit(self, data, seed, store):
        def build():
            type(self).trainings += 1
            return {"level": data.train.pixels().mean() / 100}, {}

        recipe = {"seed": seed, "tried": self.trainings if self.forgets else 0}
        self.key = store.fetch("level", recipe, build).key
        self.level = store.used[self.key].tensors["level"]

    def training_keys(self):
        return {name: self.key if name == "level" else "gone" for name in self.names}

    def purify(self, x, seed):
        return x - self.level


class Forgetful(Trained):
    forgets = True


class Unstored(Trained):
    names = ("level", "other")


class Unsteady(Defense):
    def fit(self, data, seed, store):
        self.core = torch.nn.Sequential(self.base, torch.nn.Dropout(0.0), Shifted(float(torch.rand(()))))


class Shifted(torch.nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x + self.by


class SaysDeterministic(Defense):
    purifies = True

    def purify(self, x, seed):
        return (x + 0.3 * uniform(seed, x.shape[1:]) - 0.15).clamp(0, 1)


class Meddler(Defense):
    def fit(self, data, seed, store):
        self.base[1].bias.data += 1


class Picky(Defense):
    def why_not(self, shape, classes):
        return "it is for colours"


def test_a_sound_defense_passes_and_is_attacked():
    assert check_defense(Noise, sigma=0.01).success.any()
    check_defense(Trained)
    assert Trained.trainings == 1


@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        (Forgetful, AssertionError, "trained anew each time"),
        (Unstored, AssertionError, "names what was not stored: other"),
        (Unsteady, AssertionError, "answers differently when it is fitted again"),
        (SaysDeterministic, AssertionError, "SaysDeterministic: "),
        (Meddler, Meddled, "Meddler, when it was fitted, changed what is not its own"),
        (Picky, AssertionError, "it is for colours. Give other `data`"),
    ],
)
def test_what_is_wrong_with_a_defense_is_named(kind, error, says):
    with pytest.raises(error, match=says):
        check_defense(kind)

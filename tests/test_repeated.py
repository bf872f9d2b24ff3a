"""An attack does the same whenever its cell is run, and a purifier is looked at over all images that are judged."""

from __future__ import annotations

import random
import warnings

import numpy as np
import planted_moody
import pytest
import torch
from planted_cells import Fixed, grey
from planted_plugins import also_installed, cell, flags, installed, judged, workshop  # noqa: F401 - fixtures
from torch import nn

from robustbench_gan.api.run_attack import RedFlag, run_attack
from robustbench_gan.cell.purified import Watched
from robustbench_gan.contracts.composition import Composed
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.systems import answer
from robustbench_gan.guards.generators import GENERATORS
from robustbench_gan.nouns import seeds as generators
from robustbench_gan.nouns.evidence import Shown
from robustbench_gan.nouns.seeds import own_generators

X = torch.rand(130, 3, 6, 6, generator=torch.Generator().manual_seed(5))


moods = also_installed("moods", planted_moody.ENTRY_POINTS)


EXPECTED = {
    "seeds": {}, "torch": {"global-generator"}, "numpy": {"global-generator"}, "python": {"global-generator"},
    "system": {"irreproducible-attack"}, "state": {"irreproducible-attack"}, "late": {"irreproducible-attack"},
}  # fmt: skip


@pytest.mark.parametrize("source", EXPECTED)
@pytest.mark.parametrize("threat", ["white-box", "gray-box", "seed-known"])
def test_what_an_attack_draws_from_anything_but_its_seeds_is_flagged(shop, source, threat):
    defense = "noisy" if threat != "white-box" else "none"
    found = flags(cell(shop, attacks=f"moody:source={source}", defenses=defense, threats=threat, eps=0.1))
    raised = {
        name: severity
        for name, severity in found.items()
        if name in ("global-generator", "irreproducible-attack")
    }
    assert raised == dict.fromkeys(EXPECTED[source], "warning")


@pytest.mark.parametrize("source", ["torch", "numpy", "python"])
def test_a_cell_that_draws_globally_is_the_same_after_any_other(shop, tmp_path, source):
    asked = {"attacks": f"moody:source={source},steps=3", "eps": 0.05}
    alone = judged(cell(shop, **asked))
    other = workshop(tmp_path / "other")
    torch.manual_seed(77), np.random.seed(78), random.seed(79)
    cell(other, attacks=f"moody:source={source}", eps=0.3)
    assert judged(cell(other, **asked)) == alone
    assert judged(cell(other, **asked, seed=1)) != alone


def test_a_long_attack_is_followed_as_far_as_the_tape_reaches(shop):
    result = cell(shop, attacks="moody:source=system,steps=50", eps=0.01)
    assert "irreproducible-attack" in flags(result) and set(judged(result).forward) == {50}


def test_what_is_replayed_asks_nothing_and_sees_what_was_told(shop):
    attacks = [
        "pgd:steps=5,restarts=2",
        "apgd:steps=12",
        "bpda:surrogate=identity",
        "square:queries=30",
        "deepfool",
    ]
    for attack in attacks:
        threat = "query" if attack.startswith("square") else "white-box"
        result = cell(shop, attacks=attack, defenses="noisy", threats=threat)
        assert "irreproducible-attack" not in flags(result) and result.status in ("ok", "suspect"), attack


def test_generators_of_their_own_and_those_of_the_caller():
    torch.manual_seed(1), np.random.seed(2), random.seed(3)
    wanted = [float(torch.rand(())), np.random.rand(), random.random()]
    drawn = []
    for _ in range(2):
        torch.manual_seed(1), np.random.seed(2), random.seed(3)
        with own_generators(12) as moved:
            drawn.append([float(torch.rand(())), np.random.rand(), random.random()])
        assert moved == ["torch", "numpy", "random"]
        assert [float(torch.rand(())), np.random.rand(), random.random()] == wanted
    assert drawn[0] == drawn[1] != wanted
    with own_generators(12) as moved:
        pass
    assert moved == []


# ---- what the classifier is shown


def shown(defense: Defense, x: torch.Tensor = X) -> Shown:
    watched = Watched(defense.eval(), len(x))
    with torch.no_grad():
        seen = answer(watched, x, torch.arange(len(x)))
        assert torch.equal(seen.logits, answer(Watched(defense, 0), x, torch.arange(len(x))).logits)
    assert not defense.core._forward_pre_hooks
    return watched.facts()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 4)).eval()


def by(function) -> Defense:
    class Purifier(Defense):
        purifies = True

        def purify(self, x, seed):
            return function(x)

    return Purifier(network())


def test_all_images_are_looked_at_and_their_padding_is_not():
    seen = shown(by(lambda x: 2 * x - 1))
    assert seen.outside == pytest.approx(float((2 * X - 1 < -0.01).double().mean()))
    assert seen.distance == pytest.approx(float((X - 1).square().mean()), rel=1e-4)
    assert seen.spread == pytest.approx(4, rel=1e-4) and seen.likeness == pytest.approx(1, rel=1e-4)
    turned = shown(Composed([by(lambda x: x * 1.0), by(lambda x: 1 - x)]))
    assert turned.likeness == pytest.approx(-1, rel=1e-4) and turned.outside == 0


def test_the_likeness_is_the_correlation_over_images():
    half = shown(
        by(lambda x: torch.cat([x[:, :1], x[:, 1:] * 0 + 0.5], dim=1))
    )  # one channel of three is left
    assert half.spread == pytest.approx(float(X[:, 0].var(0).sum() / X.var(0).sum()), rel=1e-4)
    assert half.likeness == pytest.approx(half.spread**0.5, rel=1e-4)
    assert shown(by(lambda x: x.flip(2))).spread == pytest.approx(1, rel=1e-4)


def test_constant_grey_leaves_nothing_whatever_the_first_images_are():
    grey = shown(by(lambda x: torch.full_like(x, 0.5)))
    assert (grey.spread, grey.likeness) == (0, 0)
    one = shown(by(lambda x: torch.full_like(x, 0.3)), X[:1])  # an image alone differs from none
    far = float((X[:1] - 0.3).square().mean())
    assert one == Shown(distance=one.distance) and one.distance == pytest.approx(far, rel=1e-3)
    other = shown(by(lambda x: x.roll(1, 0)))  # that of another image
    assert other.spread == pytest.approx(1, rel=0.1) and abs(other.likeness) < 0.1
    assert shown(Defense(network())) == Shown()


def test_a_purifier_that_shows_the_same_for_all_is_invalid(shop):
    result = cell(shop, defenses="blank", attacks="noise")  # two images alone it leaves as they are
    assert flags(result)["image-discarded"] == "invalid" and result.status == "suspect"


@pytest.mark.parametrize("source", ["seeds", "torch", "numpy", "python"])
def test_run_attack_flags_what_is_drawn_from_global_generators_and_moves_none(source):
    model, test = Fixed(3).eval(), grey().test
    x, y = test.pixels(slice(0, 20)), test.labels[:20]

    def attacked():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RedFlag)
            return run_attack(f"moody:source={source}", model, x, y, epsilons=0.1)

    before = [setting.read() for setting in GENERATORS]
    found = attacked()
    assert ("global-generator" in {flag.id for flag in found.flags}) == (source != "seeds")
    assert [setting.read() for setting in GENERATORS] == before
    torch.rand(1), np.random.rand(), random.random()
    assert torch.equal(attacked().examples, found.examples)


def test_a_generator_that_came_into_use_meanwhile_was_not_moved(monkeypatch):
    """As that of a GPU which an attack is the first to use."""
    drawn, before = [{"torch": 1}, {"torch": 2, "torch.cuda": 3}], torch.get_rng_state()
    monkeypatch.setattr(generators, "_draws", lambda: drawn.pop(0))
    with own_generators(0) as moved:
        pass
    assert moved == ["torch"] and torch.equal(torch.get_rng_state(), before)

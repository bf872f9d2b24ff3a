"""Laws that every registered defense obeys: shapes, seeds, one training a recipe, gradients and parts."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from planted import conv, seeds, separable
from torch import nn

from robustbench_gan.contracts.systems import Defended
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.outcome import Goal
from robustbench_gan.nouns.spec import Spec, as_params
from robustbench_gan.training.networks import freeze
from robustbench_gan.training.store import Store

DEFENSES = registry.names("defenses")
SHAPE, N = (1, 28, 28), 5  # a side that every generator makes
CHEAP = {
    "iterations": 3, "restarts": 2, "width": 2, "latent": 4, "gan_steps": 2, "gan_batch": 4, "critic_steps": 1,
    "epochs": 1, "batch_size": 16,
}  # fmt: skip


@cache
def data():
    return separable(32, SHAPE, classes=3)


def built(name, store, seed=0):
    kind = registry.load("defenses", name)
    cheap = {key: value for key, value in CHEAP.items() if key in registry.parameters(kind)}
    _, parameters = registry.resolve("defenses", Spec(name, as_params(cheap)))
    defense = kind(freeze(conv(3, SHAPE)), **parameters)
    defense.base_key = "base-key"
    defense.fit(data(), seed, store)
    freeze(defense)
    return defense


def inputs():
    return data().test.pixels()[:N]


@pytest.mark.parametrize("name", DEFENSES)
def test_answers_have_the_shape_of_answers(name, store):
    defense = built(name, store)
    out = defense(inputs(), seeds(N))
    assert out.logits.shape == (N, 3) and out.scores.shape[0] == N and out.logits.dtype == torch.float32
    assert torch.isfinite(out.logits).all()
    purified = defense.purify(inputs(), seeds(N))
    assert purified.shape == (N, *SHAPE) and purified.min() >= 0 and purified.max() <= 1
    assert torch.equal(purified, inputs()) == (not defense.purifies)


@pytest.mark.parametrize("name", DEFENSES)
def test_the_seed_decides_and_matters_exactly_where_declared(name, store):
    defense = built(name, store)
    torch.manual_seed(1)
    first = defense(inputs(), seeds(N)).logits
    torch.manual_seed(2)
    assert torch.equal(defense(inputs(), seeds(N)).logits, first)
    assert torch.equal(defense(inputs(), seeds(N, cell=9)).logits, first) == (not defense.randomised)


@pytest.mark.parametrize("name", DEFENSES)
def test_samples_are_answered_independently(name, store):
    defense, other = built(name, store), inputs().clone()
    other[1:] = 1 - other[1:]
    assert torch.allclose(
        defense(other, seeds(N)).logits[0], defense(inputs(), seeds(N)).logits[0], atol=1e-5
    )


class NothingToBuild(Store):
    """A store in which everything must already be."""

    def fetch(self, kind, recipe, build):
        def refuse():
            raise AssertionError(f"{kind} is built a second time")

        return super().fetch(kind, recipe, refuse)


@pytest.mark.parametrize("name", DEFENSES)
def test_a_second_fit_loads_what_the_first_one_trained(name, store):
    first = built(name, store)
    files = {path: path.stat().st_mtime_ns for path in store}
    assert len(files) == len(first.training_keys())
    again = NothingToBuild(store.root)
    second = built(name, again)
    assert {path: path.stat().st_mtime_ns for path in again} == files
    assert second.training_keys() == first.training_keys()
    assert torch.equal(second(inputs(), seeds(N)).logits, first(inputs(), seeds(N)).logits)


@pytest.mark.parametrize("name", DEFENSES)
def test_training_is_deterministic_in_its_seed(name, store, tmp_path):
    first, same = built(name, store), built(name, Store(tmp_path / "b"))
    assert torch.equal(first(inputs(), seeds(N)).logits, same(inputs(), seeds(N)).logits)
    other = built(name, store, seed=1)
    for part, key in first.training_keys().items():
        assert other.training_keys()[part] != key
        assert store.used[other.training_keys()[part]].digest != store.used[key].digest


@pytest.mark.parametrize("name", DEFENSES)
def test_training_leaves_the_classifier_and_torch_s_generator_alone(name, store):
    before = {k: v.clone() for k, v in conv(3, SHAPE).state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    defense = built(name, store)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in defense.base.state_dict().items())


@pytest.mark.parametrize("name", DEFENSES)
def test_every_gradient_that_auto_tries_gives_the_same_answer_and_a_gradient(name, store):
    defense = built(name, store)
    value = defense(inputs(), seeds(N)).logits
    for gradient in defense.gradients:
        view = View.on(Defended(defense, gradient, unroll=2), seeds(N), fixed=True)
        _, grad, out = view.value_and_grad(Goal.untargeted(torch.zeros(N, dtype=torch.int64)).loss, inputs())
        assert torch.allclose(out.logits, value, atol=1e-5), gradient
        assert grad.shape == (N, *SHAPE) and torch.isfinite(grad).all() and grad.abs().max() > 0, gradient


@pytest.mark.parametrize("name", DEFENSES)
def test_what_it_declares_is_what_it_does(name, store):
    defense = built(name, store)
    assert ("truncated" in defense.gradients) == defense.unrolls
    assert ("bpda" in defense.gradients) == defense.purifies
    assert (defense.core is defense.base) or not defense.purifies
    assert all(isinstance(part, nn.Module) for part in defense.parts().values())
    assert not any(p.requires_grad for p in defense.parameters())


REFUSED = {
    (1, 9, 9): {"magnet": "even sides, not 9x9", "ape-gan": "multiples of 4", "defense-gan": "28 or 32 pixels a side",
                "collaborative-defense-gan": "16 pixels a side or more"},
    (3, 12, 12): {"defense-gan": "not 12x12", "collaborative-defense-gan": "not 12x12"},
    (3, 28, 32): {"defense-gan": "not 28x32"},
    (1, 28, 28): {},
    (3, 32, 32): {},
}  # fmt: skip


@pytest.mark.parametrize("shape", REFUSED, ids=str)
@pytest.mark.parametrize("name", registry.names("defenses"))
def test_a_defense_says_before_it_is_run_which_images_it_cannot_take(name, shape):
    found = registry.load("defenses", name)(nn.Identity()).why_not(shape, 10)
    expected = REFUSED[shape].get(name, "")
    assert expected in found and bool(found) == bool(expected)
    if name == "magnet":  # its networks decide
        other = registry.load("defenses", name)(nn.Identity(), networks="defense-gan", detectors="off")
        assert bool(other.why_not(shape, 10)) == ("defense-gan" in REFUSED[shape])

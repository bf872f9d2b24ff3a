from __future__ import annotations

import dataclasses

import pytest

from robustbench_gan.contracts.attacks import AttackInfo, attack, info_of
from robustbench_gan.contracts.threat import ACCESS_ORDER
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import NORMS
from robustbench_gan.nouns.spec import Spec, as_params


def test_the_decorator_keeps_the_function_and_states_its_facts():
    def zap(view, x, goal, budget, seed, *, steps: int = 3):
        return x

    marked = attack(needs="labels", norms=("l2",), passes=lambda p: 2 * p["steps"], minimal=True, paper="P")(
        zap
    )
    assert marked is zap
    info = info_of(zap)
    assert (info.needs, info.norms, info.minimal, info.paper) == ("labels", ("l2",), True, "P")
    assert info.passes({"steps": 5}) == 10


def test_the_defaults_claim_every_norm_one_pass_and_targets():
    @attack(needs="nothing", paper="P")
    def zap(view, x, goal, budget, seed):
        return x

    info = info_of(zap)
    assert info.norms == NORMS and info.passes({}) == 1 and info.targeted
    assert not info.minimal and not info.control and info.gradient is None


@pytest.mark.parametrize(
    "facts",
    [{"norms": ("Linf",)}, {"norms": ()}, {"norms": "l2"}, {"needs": "gradients"}],
    ids=str,
)
def test_facts_that_cannot_be_are_refused_where_they_are_written(facts):
    with pytest.raises(
        ValueError, match=r"@attack\(norms=.*expected norms among l0, l1, l2, linf and one of gradient"
    ):
        attack(**{"needs": "nothing", "paper": "P", **facts})


def test_the_facts_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        info_of(registry.load("attacks", "pgd")).minimal = True


@pytest.mark.parametrize("stranger", [print, object(), lambda x: x, AttackInfo])
def test_what_does_not_stand_under_the_decorator_is_a_type_error(stranger):
    with pytest.raises(TypeError, match="does not stand under @attack"):
        info_of(stranger)


def test_a_fake_info_is_a_type_error():
    def zap():
        return None

    zap.info = {"norms": ("l2",)}
    with pytest.raises(TypeError):
        info_of(zap)


@pytest.mark.parametrize("name", registry.names("attacks"))
def test_every_registered_attack_states_facts_that_make_sense(name):
    target = registry.load("attacks", name)
    info = info_of(target)
    assert info.norms and set(info.norms) <= set(NORMS) and info.needs in ACCESS_ORDER
    assert info.paper and registry.summary(target)
    defaults = registry.bind(Spec(name), target, "attack")
    for norm in info.norms:
        passes, on_parts = info.cost(defaults, norm, 10, 784)
        assert passes >= 0 and on_parts >= 0 and (passes + on_parts > 0 or info.needs == "nothing")
    assert all(not p.required for p in registry.parameters(target).values())


@pytest.mark.parametrize("name", registry.names("attacks"))
def test_every_default_survives_being_written_into_a_spec(name):
    target = registry.load("attacks", name)
    values = registry.bind(Spec(name), target, "attack")
    spec = Spec(name, as_params(values))
    assert registry.bind(Spec.parse(str(spec)), target, "attack") == values

"""A network too sure of its answers is no robust one: every attack by gradients beats it, or its cell says so."""

from __future__ import annotations

import math

import pytest
from crafted import parts_of
from planted import images, seeds
from planted_cells import Fixed, Stepped
from planted_plugins import cell, installed, judged, workshop  # noqa: F401

from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.contracts.systems import Bare
from robustbench_gan.contracts.view import View
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget
from robustbench_gan.nouns.outcome import Goal

CHEAP = {
    "apgd": "steps=5", "cw": "preset=fast,steps=8", "fmn": "steps=8", "lbfgs": "steps=8", "pgd": "steps=5", "bpda": "steps=5",
    "bpda-learned": "steps=5,epochs=1,images=40", "advgan": "steps=2,batch_size=20", "ai-gan": "steps=2,batch_size=20", "cw-bounded": "steps=5",
}  # fmt: skip
BY_GRADIENT = [
    n for n in registry.names("attacks") if info_of(registry.load("attacks", n)).needs == "gradient"
]
SAID = {"zero-gradient", "saturated-loss"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return workshop(tmp_path_factory.mktemp("saturated"))


def cell_of(shop, name, classifier):
    """An attack's cell, in l2 where it can."""
    info = info_of(registry.load("attacks", name))
    norm = next(n for n in ("l2", "linf", "l0") if n in info.norms)
    text = f"{name}:{CHEAP[name]}" if name in CHEAP else name
    defense = "bit-depth:bits=8" if info.gradient == "bpda" else "none"
    return cell(
        shop, attacks=text, classifiers=classifier, defenses=defense, norm=norm,
        eps=float({"l2": 0.5, "linf": 0.15, "l0": 4}[norm]), samples=20,
    )  # fmt: skip


def standing(result):
    return "".join(judged(result).robust).count("1") / 20


@pytest.mark.parametrize("name", [n for n in BY_GRADIENT if n != "manifold"])
def test_what_stands_for_being_saturated_is_flagged(shop, name):
    sharp, stepped = (cell_of(shop, name, c) for c in ("sharp", "stepped"))
    assert SAID & {f.id for f in sharp.flags} or standing(sharp) <= standing(cell_of(shop, name, "fixed"))
    assert standing(stepped) > 0.2  # nothing that looks at gradients can tell where to go
    assert stepped.status == "suspect" and "zero-gradient" in {f.id for f in stepped.flags}


@pytest.mark.parametrize(("classifier", "zero"), [(Fixed, False), (Stepped, True)])
def test_a_gradient_taken_through_a_part_of_the_defense_is_watched_as_well(classifier, zero):
    x, model = images(40), classifier(3)
    y = model(x).argmax(dim=1)
    view = View.on(Bare(model), seeds(40), parts=parts_of(x, model))
    attack = registry.load("attacks", "manifold")
    more = {"inversions": 2, "inversion_steps": 3, "steps": 3, "search_steps": 2}
    attack(view, x, Goal.untargeted(y), Budget("l2", math.inf), seeds(40), **more)
    asked = view.counts.gradients > 0  # of a code that fooled the classifier from the start nothing is
    nothing = (view.counts.zero_gradients == view.counts.gradients)[asked]
    assert asked.sum() > 5 and (
        nothing.double().mean() > 0.5 if zero else not nothing.any()
    )  # some are near a step

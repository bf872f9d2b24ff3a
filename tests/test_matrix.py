"""A matrix laid out as cells: what they hold, the presets, and what cannot be is known before any work."""

from __future__ import annotations

import math

import pytest
from planted_plugins import installed, planned, workshop  # noqa: F401

from robustbench_gan.base.errors import UsageError
from robustbench_gan.cell.question import why_not
from robustbench_gan.contracts.attacks import AttackInfo
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.threat import THREATS, black_box, gray_box, query, seed_known, white_box
from robustbench_gan.data.dataset import HOLDOUT
from robustbench_gan.engine.layout import lay_out
from robustbench_gan.engine.matrix import preset_text, presets, read_matrix
from robustbench_gan.nouns import registry

# ---- laying out


def test_a_matrix_is_the_product_of_its_lists(shop):
    cells = planned(shop, classifiers=["fixed", "bent"], defenses=["none", "noisy"], attacks=["noise", "fgsm", "pgd"],
                    threats=["white-box", "gray-box"], eps=[0.1, 0.2], goals=["untargeted", "random"])  # fmt: skip
    assert len(cells) == 2 * 2 * 3 * 2 * 2 * 2


def test_cells_hold_every_parameter_written_out(shop):
    (item,) = planned(shop, attacks="pgd:steps=7", eot=3, gradient="bpda", defenses="noisy+none")
    assert str(item.cell.attack) == "pgd:loss=ce,momentum=0.0,random_start=True,restarts=1,step=0.0,steps=7"
    assert str(item.cell.threat) == "white-box:draws=3,gradient=bpda,unroll=5"
    assert (
        str(item.cell.defense) == "noisy+none" and str(item.cell.dataset) == "grey:classes=3,side=4,tests=200"
    )
    assert item.threat == white_box(gradient="bpda", draws=3, unroll=5)


def test_a_threat_model_keeps_what_it_says_itself(shop):
    (item,) = planned(shop, threats="white-box:gradient=full,draws=2", eot=9, gradient="bpda")
    assert (item.threat.gradient, item.threat.draws) == ("full", 2)


def test_the_identity_holds_hashes_of_code_and_data(shop):
    (one,) = planned(shop)
    assert one.cell.identity.keys() == {
        "data",
        "loader",
        "classifier",
        "defense",
        "engine",
        "train_seed",
        "attack",
    }
    assert planned(shop, train_seed=1)[0].cell.fingerprint != one.cell.fingerprint
    assert planned(shop, datasets="grey:tests=201")[0].cell.identity["data"] != one.cell.identity["data"]
    assert planned(shop, attacks="noise")[0].cell.identity["attack"] != one.cell.identity["attack"]


def test_the_same_images_are_judged_under_every_threat_model_where_that_fits(shop):
    cells = planned(shop, threats=["white-box", "black-box"], samples=50)
    assert {(c.cell.first, c.cell.samples) for c in cells} == {(HOLDOUT, 50)}
    (many,) = planned(shop, samples=51)
    assert (many.cell.first, many.cell.samples) == (0, 51)
    black, white = planned(shop, threats=["black-box", "white-box"], samples="all")
    assert (black.cell.first, black.cell.samples) == (HOLDOUT, 50)
    assert (white.cell.first, white.cell.samples) == (0, 200)


@pytest.mark.parametrize("samples", [0, -1, 201])
def test_samples_beyond_the_split_are_an_error_that_gives_its_size(shop, samples):
    with pytest.raises(UsageError, match="the test split has 200 images"):
        planned(shop, samples=samples)


def test_black_box_cannot_judge_the_substitutes_images(shop):
    planned(shop, samples=50, threats="black-box")
    with pytest.raises(UsageError, match="150 of them the substitute's"):
        planned(shop, samples=51, threats="black-box")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"attacks": "pdg"}, ["unknown attack 'pdg'", "Did you mean 'pgd'?", "rand-fgsm"]),
        ({"defenses": "magent"}, ["unknown defense 'magent'", "Did you mean 'magnet'?", "none"]),
        ({"classifiers": "small-cn"}, ["unknown model 'small-cn'", "Did you mean 'small-cnn'?", "lenet"]),
        ({"datasets": "minst"}, ["unknown dataset 'minst'", "Did you mean 'mnist'?", "cifar10"]),
        ({"threats": "whitebox"}, ["unknown threat model 'whitebox'", "Did you mean 'white-box'?", "seed-known"]),
        ({"goals": "target"}, ["unknown goal 'target'", "untargeted"]),
        ({"norm": "l3"}, ["unknown norm 'l3'", "linf"]),
        ({"attacks": "pgd:stesp=3"}, ["unknown parameter of attack 'pgd': 'stesp'", "Did you mean 'step'?", "restarts"]),
        ({"defenses": "none:x=3"}, ["parameter of defense 'none'"]),
        ({"attacks": "pgd:steps=many"}, ["pgd:steps=many is not a int"]),
        ({"attacks": "pgd:steps"}, ["cannot read 'steps'"]),
        ({"defenses": "none+"}, ["cannot read"]),
        ({"threats": "white-box:gradient=fool"}, ["white-box:gradient", "'fool'", "truncated"]),
        ({"gradient": "fool"}, ["gradient", "'fool'"]),
        ({"threats": "white-box:draws=0"}, ["must be 1 or more"]),
        ({"threats": "black-box:rounds=0"}, ["must be 1 or more"]),
        ({"threats": "black-box:model=nope"}, ["unknown model 'nope'"]),
        ({"eps": -0.1}, ["eps=-0.1"]),
        ({"eps": math.nan}, ["eps=nan"]),
        ({"eps": 8.0}, ["eps=8.0", "did you mean 8/255?"]),
        ({"attacks": "broken"}, ["'broken'", "planted 1.0", "ImportError: planted: no such thing"]),
    ],
)  # fmt: skip
def test_a_wrong_name_or_value_is_one_line_before_any_work(shop, tmp_path, asked, says):
    with pytest.raises(UsageError) as error:
        planned(shop, **asked)
    for part in says:
        assert part in str(error.value)
    assert "\n" not in str(error.value) and not (tmp_path / "artifacts").exists()


# ---- presets


def test_the_presets_are_there():
    assert {"quick", "standard", "paper", "defense-gan-2018"} <= set(presets())
    with pytest.raises(UsageError, match="Did you mean 'quick'"):
        preset_text("qiuck")


@pytest.mark.parametrize("name", ["quick", "standard", "paper"])
def test_a_preset_lays_out_and_most_of_it_can_be_run(tmp_path, monkeypatch, name):
    # No download: every data set a preset names is the planted one, of MNIST's shape.
    from planted_cells import grey

    big = grey(classes=10, tests=1200, side=28)
    real = registry.resolve

    def resolve(group, spec):
        target, values = real(group, spec)
        return (lambda: big, values) if group == "datasets" else (target, values)

    monkeypatch.setattr(registry, "resolve", resolve)
    cells = lay_out(read_matrix(preset_text(name), name, {}), workshop(tmp_path))
    runs = [c for c in cells if not c.reason]
    assert len(runs) > len(cells) / 3 and len(runs) >= 20
    assert all(c.cell.samples >= 200 for c in cells)


def test_the_standard_preset_has_every_threat_model():
    threats = read_matrix(preset_text("standard"), "standard", {}).threats
    assert {str(threat) if str(threat) in THREATS else threat.name for threat in threats} == set(THREATS)


# ---- what cannot be


def info(norms=("linf",), needs="gradient", targeted=True, gradient=None):
    return AttackInfo(norms, needs, lambda p: 1, False, targeted, gradient, False, "planted")


def kind(purifies=False, randomised=False, unrolls=False):
    return type("Kind", (Defense,), {"purifies": purifies, "randomised": randomised, "unrolls": unrolls})


PURIFIER = kind(purifies=True)


@pytest.mark.parametrize(
    ("info", "chain", "threat", "goal", "norm", "says"),
    [
        (info(), [Defense], white_box(), "untargeted", "linf", ""),
        (info(), [Defense], white_box(), "untargeted", "l2", "defined in linf, not in l2"),
        (info(targeted=False), [Defense], white_box(), "random", "linf", "no targeted form"),
        (info(targeted=False), [Defense], white_box(), "untargeted", "linf", ""),
        (info(), [Defense], query(), "untargeted", "linf", "needs gradient, the threat model grants scores"),
        (info(needs="scores"), [Defense], query(access="labels"), "untargeted", "linf", "needs scores"),
        (info(needs="labels"), [Defense], query(access="labels"), "untargeted", "linf", ""),
        (info(needs="nothing"), [Defense], query(), "untargeted", "linf", ""),
        (info(), [Defense], black_box(), "untargeted", "linf", ""),
        (info(), [Defense], gray_box(), "untargeted", "linf", "nothing for a gray-box attacker not to know"),
        (info(), [PURIFIER], gray_box(), "untargeted", "linf", ""),
        (info(), [Defense, PURIFIER], gray_box(), "untargeted", "linf", ""),
        (info(), [PURIFIER], seed_known(), "untargeted", "linf", "the defense is not random"),
        (info(), [kind(True, True)], seed_known(), "untargeted", "linf", ""),
        (info(gradient="bpda"), [PURIFIER], white_box(), "untargeted", "linf", ""),
        (info(gradient="bpda"), [Defense], white_box(), "untargeted", "linf", "no purifier to go through"),
        (info(gradient="bpda"), [PURIFIER], white_box(gradient="full"), "untargeted", "linf", "grants 'full'"),
        (info(gradient="bpda"), [PURIFIER], black_box(), "untargeted", "linf", "gradient 'bpda' of the defended"),
        (info(), [Defense], white_box(gradient="bpda"), "untargeted", "linf", "no purifier for BPDA"),
        (info(), [PURIFIER], white_box(gradient="truncated"), "untargeted", "linf", "no iterations to truncate"),
        (info(), [kind(True, True, True)], white_box(gradient="truncated"), "untargeted", "linf", ""),
        (info(needs="nothing"), [Defense], white_box(gradient="bpda"), "untargeted", "linf", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_is_known_before_it_is_run(info, chain, threat, goal, norm, says):
    found = why_not(info, chain, threat, goal, norm)
    assert (says in found) and bool(says) == bool(found)


def test_a_radius_written_as_a_fraction_asks_the_same_questions(tmp_path):
    asked = (
        'datasets = ["grey"]\nclassifiers = ["fixed"]\nattacks = ["{}"]\neps = [{}]\nnorm = {}\nsamples = 20'
    )
    decimal = read_matrix(
        asked.format("pgd:step=0.00784313725490196", f"{8 / 255!r}, 0.1", '"linf"'), "m", {}
    )
    fraction = read_matrix(asked.format("pgd:step=2/255", '"8/255", 0.1', "inf"), "m", {})
    (first, second), (third, fourth) = (lay_out(asked, workshop(tmp_path)) for asked in (decimal, fraction))
    assert (first.cell, second.cell) == (third.cell, fourth.cell)
    with pytest.raises(UsageError, match=r"m: eps\.0 = '8/256/2': eps=8/256/2 is no radius.* 8/255\.$"):
        read_matrix('eps = ["8/256/2"]', "m", {})


def test_a_defense_for_other_images_is_not_applicable_and_stops_nothing_else(tmp_path):
    """Known from its parameters, for all of its cells alike, alone and in a composition."""
    laid = planned(
        workshop(tmp_path), defenses=["none", "median:size=4", "median:size=5", "noisy+median:size=5"],
        attacks=["fgsm", "fmn"],
    )  # fmt: skip
    reasons = {(str(item.cell.defense), item.cell.attack.name): item.reason for item in laid}
    wide = "median:size=5 is wider than images of 4x4: give at most 4"
    assert reasons == {
        (defense, attack): wide if "size=5" in defense else ""
        for defense in ("none", "median:size=4", "median:size=5", "noisy+median:size=5")
        for attack in ("fgsm", "fmn")
    }
    with pytest.raises(
        UsageError, match="wider than images of 4x4"
    ):  # asked for by itself, as rbg train does
        workshop(tmp_path).defense("grey", "fixed", "median:size=5")

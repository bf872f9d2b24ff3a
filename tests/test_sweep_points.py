"""Which points a sweep has."""

from __future__ import annotations

import pytest
from planted_plugins import installed  # noqa: F401 - a fixture

from robustbench_gan.base.errors import UsageError
from robustbench_gan.engine.points import Axis, points, varied
from robustbench_gan.nouns.spec import Chain


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("L=25", "L", ("25",)),
        ("L=25,50 , 100", "L", ("25", "50", "100")),
        ("attack=pgd(steps=1,step=0.1),fgsm", "attack", ("pgd(steps=1,step=0.1)", "fgsm")),
        ("magnet.width=1,2", "magnet.width", ("1", "2")),
    ],
)
def test_an_axis_is_read(text, name, values):
    assert Axis.parse(text) == Axis(name, values)


@pytest.mark.parametrize("text", ["", "L", "L=", "=1,2", "L=1,,2", "L=1,", "L=,1", "L=1,2,1", "L=f(1"])
def test_an_axis_that_makes_no_sense_is_refused(text):
    with pytest.raises(UsageError, match="--over"):
        Axis.parse(text)


L, R = Axis("iterations", ("25", "50")), Axis("restarts", ("1", "2", "5"))


def test_crossed_gives_every_combination():
    found = points([Chain.of("defense-gan")], [L, R], one_at_a_time=False)
    assert len(found) == 6 and len({p.spec for p in found}) == 6 and {p.axis for p in found} == {""}
    assert str(found[1].spec) == "defense-gan:iterations=25,restarts=2"


def test_one_at_a_time_keeps_the_others_as_given():
    found = points([Chain.of("defense-gan:iterations=100,restarts=10")], [L, R], one_at_a_time=True)
    assert [str(p.spec) for p in found] == [
        f"defense-gan:iterations={i},restarts={r}"
        for i, r in [(25, 10), (50, 10), (100, 1), (100, 2), (100, 5)]
    ]
    assert [p.axis for p in found] == ["iterations"] * 2 + ["restarts"] * 3


def test_in_a_composition_the_stage_that_has_the_parameter_is_varied():
    chain = Chain.of("magnet:epochs=1+adversarial-training")
    assert str(varied(chain, [("mix", "0.25")])) == "magnet:epochs=1+adversarial-training:mix=0.25"
    assert str(varied(chain, [("magnet.lr", "0.5")])) == "magnet:epochs=1,lr=0.5+adversarial-training"
    with pytest.raises(UsageError, match=r"several stages .*write magnet.epochs="):
        varied(chain, [("epochs", "2")])
    with pytest.raises(UsageError, match="unknown parameter of 'magnet'"):
        varied(Chain.of("magnet"), [("widht", "2")])

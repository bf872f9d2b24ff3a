"""Specs and chains: how their text is read, written and refused."""

from __future__ import annotations

import math

import pytest

from robustbench_gan.base.errors import UsageError
from robustbench_gan.nouns.spec import Chain, Spec

PARSED = [
    ("pgd", Spec("pgd")),
    ("  pgd  ", Spec("pgd")),
    ("pgd()", Spec("pgd")),
    ("rand-fgsm", Spec("rand-fgsm")),
    ("pgd:steps=100,step=0.05", Spec("pgd", (("step", 0.05), ("steps", 100)))),
    ("pgd: steps = 100 , step = .5 ", Spec("pgd", (("step", 0.5), ("steps", 100)))),
    ("pgd(steps=100)", Spec("pgd", (("steps", 100),))),
    ("a:x=1e-3,y=1E+5,z=-2,w=inf", Spec("a", (("w", math.inf), ("x", 1e-3), ("y", 1e5), ("z", -2)))),
    ("a:x=true,y=False,z=none", Spec("a", (("x", True), ("y", False), ("z", None)))),
    ("a:x='true',y=\"1\",z='a,b(c)+d=e'", Spec("a", (("x", "true"), ("y", "1"), ("z", "a,b(c)+d=e")))),
    ("a:path=/tmp/x.png", Spec("a", (("path", "/tmp/x.png"),))),
    ("a:path=C:x", Spec("a", (("path", "C:x"),))),
    ("adv:attack=pgd(step=.1)", Spec("adv", (("attack", Spec("pgd", (("step", 0.1),))),))),
    ("a:b=c(d=e(f=1),g='(')", Spec("a", (("b", Spec("c", (("d", Spec("e", (("f", 1),))), ("g", "(")))),))),
    ("a:b=c()", Spec("a", (("b", Spec("c")),))),
    ("a:x=''", Spec("a", (("x", ""),))),
]  # fmt: skip


@pytest.mark.parametrize(("text", "spec"), PARSED, ids=[text for text, _ in PARSED])
def test_a_spec_reads_as_written_and_its_text_reads_back(text, spec):
    assert Spec.parse(text) == spec
    assert Spec.parse(str(spec)) == spec
    assert [type(v) for _, v in Spec.parse(str(spec)).params] == [type(v) for _, v in spec.params]


VALUES = [
    0, 1, -7, 10**20, 0.0, 0.1, 1e-3, 1e-300, 1e22, -2.5, math.inf, -math.inf, True, False, None,
    "", "x", "true", "None", "12", "1e5", "inf", "a b", " a", "a ", "a,b", "f(x)", "it's", '"', "a+b", "a=b",
    "C:\\x", "both ' and \"", "x\\'y,\"", "\n", "1_0", "é", "#", "e+1",
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_every_value_survives_being_written_alone_nested_and_in_a_chain(value):
    flat = Spec("a", (("k", value),))
    deep = Spec("b", (("inner", flat), ("other", value)))
    for spec in (flat, deep):
        back = Spec.parse(str(spec))
        assert back == spec and type(back.params[-1][1]) is type(value)
    assert Chain.parse(f"{deep}+{flat}") == Chain((deep, flat))


def test_not_a_number_is_written_and_read():
    assert math.isnan(Spec.parse(str(Spec("a", (("k", math.nan),)))).params[0][1])


def test_the_order_of_parameters_does_not_matter():
    assert Spec.parse("pgd:steps=1,step=2.0") == Spec.parse("pgd:step=2.0,steps=1")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("none", ["none"]),
        ("ape-gan+adversarial-training", ["ape-gan", "adversarial-training"]),
        ("none+magnet", ["none", "magnet"]),  # an e before the plus is no exponent
        ("a:x=1e+3+b", ["a", "b"]),
        ("a:x=e+b", ["a", "b"]),
        ("a:x=1+2b", ["a", "2b"]),
        ("a(x='+')+b:y=c(z=1e+2)+d", ["a", "b", "d"]),
        ("resnet18:model=e + b", ["resnet18", "b"]),
    ],
)
def test_a_chain_splits_at_every_plus_that_is_no_part_of_a_value(text, names):
    assert [s.name for s in Chain.parse(text)] == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read ''"),
        (":x=1", "cannot read ':x=1'"),
        ("pgd:", "cannot read 'pgd:'"),
        ("pgd steps", "expected name or name:key=value"),
        ("pgd:steps", "cannot read 'steps' in 'pgd:steps': expected key=value"),
        ("pgd:steps=", "cannot read 'steps='"),
        ("pgd:2=3", "cannot read '2=3'"),
        ("pgd:a=1,,b=2", "expected key=value"),
        ("pgd:a=1,a=2", "'a' is given twice"),
        ("pgd:a=(", "unbalanced parenthesis"),
        ("pgd:a=b(c=1", "unbalanced parenthesis"),
        ("pgd:a=b)", "unbalanced parenthesis"),
        ("pgd:a='b", "unbalanced quote"),
        ("pgd(a=1", "cannot read"),
        ("pgd(a=1)b", "cannot read"),
        ("p d(a=1)", "cannot read"),
        ("pgd:a='b'c", "cannot read"),
        ("pgd:a='b' 'c'x", "cannot read"),
    ],
)
def test_what_cannot_be_read_is_a_usage_error_that_shows_it(text, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\(").replace(")", r"\)")):
        Spec.parse(text)


@pytest.mark.parametrize("text", ["+", "a+", "+a", "a++b", "a+(b", "a+b:x='"])
def test_a_broken_chain_is_a_usage_error(text):
    with pytest.raises(UsageError, match="cannot read"):
        Chain.parse(text)


@pytest.mark.parametrize("text", ["a:x=" + "(" * 100_000, "a(x=" * 100_000, "x" * 10**6, "a+" * 10**6])
def test_a_spec_that_nobody_wrote_is_refused_at_once(text):
    for read in (Spec.parse, Chain.parse):
        with pytest.raises(
            UsageError, match="a spec has at most 10000 characters and 100 parentheses"
        ) as told:
            read(text)
        assert len(str(told.value)) < 200

from __future__ import annotations

import math
from typing import Literal

import pytest
from planted import plant

from robustbench_gan.base import stopping
from robustbench_gan.base.errors import UsageError
from robustbench_gan.cli.installed import catalogue
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.registry import bind
from robustbench_gan.nouns.spec import Chain, Spec, as_params

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


def target(x, *, steps: int = 40, step: float = 0.1, name: str = "a", on: bool = False, inner=None):
    return x


def chooser(x, *, kind: Literal["red", "green"] = "red"):
    return x


def needy(x, *, path: str, size: int = 2):
    return x


class Thing:
    def __init__(self, base, *, width: int = 3) -> None:
        self.width = width


def bound(text, to=target):
    return bind(Spec.parse(text), to, "attack")


def test_bind_gives_every_parameter_its_value_or_its_default():
    assert bound("t") == {"steps": 40, "step": 0.1, "name": "a", "on": False, "inner": None}
    values = bound("t:step=1,inner=pgd(steps=2),on=true")
    assert values["step"] == 1.0 and type(values["step"]) is float
    assert values["inner"] == Spec("pgd", (("steps", 2),)) and values["on"] is True
    assert bound("c:kind=green", chooser) == {"kind": "green"}
    assert bound("n:path=x", needy) == {"path": "x", "size": 2}
    assert bound("t:width=5", Thing) == {"width": 5}


def test_parameters_are_the_keyword_only_ones_with_their_choices():
    found = registry.parameters(chooser)
    assert list(found) == ["kind"] and found["kind"].choices == ("red", "green")
    assert [p.required for p in registry.parameters(needy).values()] == [True, False]
    assert list(registry.parameters(Thing)) == ["width"]


@pytest.mark.parametrize(
    ("text", "to", "message"),
    [
        ("t:stepz=1", target, "unknown parameter of attack 't': 'stepz'. Did you mean 'step'.*step, steps"),
        ("t:zzz=1", target, "unknown parameter.*'zzz'. Known: inner, name, on, step, steps"),
        ("t:steps=1.5", target, "t:steps=1.5 is not a int; the default is 40"),
        ("t:steps=true", target, "t:steps=True is not a int"),
        ("t:steps=many", target, "t:steps=many is not a int"),
        ("t:step=big", target, "t:step=big is not a float"),
        ("t:step=false", target, "is not a float"),
        ("t:on=1", target, "t:on=1 is not a bool"),
        ("t:steps=none", target, "t:steps=None is not a int"),
        ("c:kind=gren", chooser, "unknown value of c:kind: 'gren'. Did you mean 'green'. Known: green, red"),
        ("n", needy, "attack 'n' needs path=...: write n:path=VALUE"),
        ("n:size=3", needy, "attack 'n' needs path"),
    ],
)
def test_a_wrong_parameter_is_a_usage_error_that_says_how_to_mend_it(text, to, message):
    with pytest.raises(UsageError, match=message.replace("...:", r"\.\.\.:")):
        bound(text, to)


@pytest.mark.parametrize(
    ("group", "name"), [("attacks", "pgdd"), ("defenses", "magnett"), ("models", "small-cn")]
)
def test_an_unknown_name_suggests_the_nearest_and_lists_the_real_ones(group, name):
    with pytest.raises(UsageError) as error:
        registry.load(group, name)
    message = str(error.value)
    assert (
        repr(name) in message
        and f"Did you mean {name[:-1] if group != 'models' else 'small-cnn'!r}?" in message
    )
    assert all(real in message for real in registry.names(group))


def test_builtins_load_and_say_what_they_are_in_one_line():
    for group in registry.GROUPS:
        assert registry.names(group) == sorted(registry.names(group)) and registry.names(group)
        for name in registry.names(group):
            assert registry.summary(registry.load(group, name))


POINT = "[robustbench_gan.attacks]\n{name} = {value}\n"


def test_a_planted_plugin_is_found_loaded_and_resolved(plugin_path):
    plant(
        plugin_path,
        "planted",
        POINT.format(name="zap", value="rbg_planted.zap:zap"),
        {
            "rbg_planted/__init__.py": "",
            "rbg_planted/zap.py": (
                "from robustbench_gan.contracts.attacks import attack\n\n\n"
                '@attack(needs="labels", paper="x")\n'
                'def zap(view, x, *, power: int = 3):\n    """Zap.\n\n    More."""\n    return power\n'
            ),
        },
    )
    assert "zap" in registry.names("attacks") and "pgd" in registry.names("attacks")
    found = registry.entry("attacks", "zap")
    assert (found.distribution, found.version) == ("planted", "1.0")
    zap, values = registry.resolve("attacks", Spec.parse("zap:power=9"))
    assert values == {"power": 9} and zap(None, None, **values) == 9
    assert registry.summary(zap) == "Zap."


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def zap(:", "SyntaxError"),
        ("x = 1", "AttributeError"),
        ("import sys\nsys.exit('install foo')", "SystemExit: install foo"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def f(): f()\nf()", "RecursionError"),
        ("raise BaseException('x' * 10**7)", "BaseException: xxx"),
    ],
)
def test_a_plugin_that_fails_to_import_breaks_only_itself(plugin_path, source, error):
    plant(plugin_path, "broken", POINT.format(name="zap", value="rbg_broken:zap"), {"rbg_broken.py": source})
    assert "zap" in registry.names("attacks")
    assert callable(registry.load("attacks", "pgd"))
    with (
        stopping.listening(),
        pytest.raises(
            UsageError, match=f"'zap' .broken 1.0, rbg_broken:zap. fails to import: {error}"
        ) as told,
    ):
        registry.load("attacks", "zap")
    assert len(str(told.value)) < 2500


@pytest.mark.parametrize(
    ("group", "source", "wrong"),
    [
        ("attacks", "zap = 'a text'", "no function or class"),
        ("attacks", "zap = None", "no function or class"),
        ("attacks", "import sys\nzap = sys", "no function or class"),
        ("models", "zap = 3", "no function or class"),
        ("datasets", "zap = []", "no function or class"),
        ("attacks", "class zap: pass", "does not stand under @attack"),
        ("attacks", "zap = print", "does not stand under @attack"),
        (
            "defenses",
            "def zap(base): return base",
            "no class derived from robustbench_gan.contracts.defense.Defense",
        ),
        ("defenses", "from torch import nn\nclass zap(nn.Module): pass", "no class derived from"),
        ("models", "zap = min", "cannot be called: ValueError"),
    ],
)
def test_what_is_of_another_kind_is_listed_with_its_error_and_refused(plugin_path, group, source, wrong):
    point = POINT.format(name="zap", value="rbg_broken:zap").replace("attacks", group)
    plant(plugin_path, "broken", point, {"rbg_broken.py": source})
    with pytest.raises(UsageError, match=f"'zap' .broken 1.0, rbg_broken:zap. .*{wrong}"):
        registry.load(group, "zap")
    (listed,) = [entry for entry in catalogue(group) if entry["error"]]
    assert listed["name"] == "zap" and wrong in listed["error"]


def test_two_plugins_that_claim_one_name_are_an_error_that_names_both(plugin_path):
    for name in ("one", "two"):
        plant(
            plugin_path,
            name,
            POINT.format(name="zap", value=f"rbg_{name}:zap"),
            {f"rbg_{name}.py": "zap = print"},
        )
    with pytest.raises(UsageError, match=r"attack 'zap': (one and two|two and one). Uninstall one"):
        registry.load("attacks", "zap")
    assert "zap" in registry.names("attacks") and callable(registry.load("attacks", "pgd"))
    listed = {each["name"]: each["error"] for each in catalogue("attacks")}
    assert "Uninstall one" in listed["zap"] and listed["pgd"] is None


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("-1/3", -1 / 3), ("1/2/3", "1/2/3"), ("1/0", "1/0"), ("a/b", "a/b")]
)  # fmt: skip
def test_a_number_may_be_a_fraction_and_asks_the_same_question_as_the_decimal(text, value):
    assert dict(Spec.parse(f"adv:attack=pgd(step={text})").params)["attack"] == Spec(
        "pgd", (("step", value),)
    )
    if isinstance(value, float):
        assert bound(f"t:step={text}") == bound(f"t:step={value!r}")
        assert str(Spec.parse(f"pgd:step={text}")) == f"pgd:step={value!r}"


@pytest.mark.parametrize(
    "place",
    ["8/255", "007", "1e3", "1_000", "true", "none", "a:b", "~/x+y=z", "data(a=1)", "C:\\data", "a b"],
)
def test_a_text_is_what_was_written_whatever_else_it_looks_like(place):
    values = bound(f"n:path={place},size=3", needy)
    assert values == {"path": place, "size": 3}
    assert bound(str(Spec("n", as_params(values))), needy) == values
    assert bound(f'n:path="{place}"', needy)["path"] == place or "\\" in place
    assert bound("t:name=2024")["name"] == "2024"


@pytest.mark.parametrize("text", ["a:x=" + "(" * 100_000, "a(x=" * 100_000, "x" * 10**6, "a+" * 10**6])
def test_a_spec_that_nobody_wrote_is_refused_at_once(text):
    for read in (Spec.parse, Chain.parse):
        with pytest.raises(
            UsageError, match="a spec has at most 10000 characters and 100 parentheses"
        ) as told:
            read(text)
        assert len(str(told.value)) < 200

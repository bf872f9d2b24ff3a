"""The registry: parameters are bound and refused by name, plugins are found, and one that fails breaks only itself."""

from __future__ import annotations

from typing import Literal

import pytest
from planted import plant

from robustbench_gan.base import stopping
from robustbench_gan.base.errors import UsageError
from robustbench_gan.cli.installed import catalogue
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.registry import bind
from robustbench_gan.nouns.spec import Spec, as_params


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

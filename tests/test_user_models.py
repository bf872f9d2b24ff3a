"""A user's own classifier: how its factory is called, and what is refused before anything runs."""

from __future__ import annotations

import pytest
from torch import nn

from robustbench_gan.base.errors import UsageError, described
from robustbench_gan.models.from_file import factory_from_file
from robustbench_gan.nouns.spec import FileReference

SHAPE = (1, 28, 28)
FILE = """
from __future__ import annotations
import dataclasses, functools
from torch import nn

@dataclasses.dataclass
class Options:
    width: int = 3

class Said(nn.Module):
    def __init__(self, *given, **named):
        super().__init__()
        self.given = (given, named)

def plain(): return nn.Linear(784, Options().width)
def full(shape, classes): return Said(shape, classes)
def others(size, k): return Said(size, k)
def keyword(num_classes=10): return Said(num_classes)
def pretrained(pretrained=False, num_classes=10): return Said(pretrained, num_classes)
def named(*, classes, image_shape): return Said(image_shape, classes)
def turned(classes, shape): return Said(shape, classes)
def defaults(width=64, depth=2): return Said(width, depth)
def channelled(in_channels, num_classes, width=8): return Said(in_channels, num_classes, width)
def channels_known(in_channels=3, num_classes=1000): return Said(in_channels, num_classes)
def extra(shape, classes, width=8): return Said(shape, classes, width)
def options(**more): return Said(**more)
anonymous = lambda shape, classes: Said(shape, classes)
part = functools.partial(extra, width=5)
class Net(Said):
    def __init__(self, shape, classes):
        super().__init__(shape, classes)

def wrong(): return 3
def kind(): return Net
def pair(): return nn.Flatten(), None
def one(size): return Said()
def three(a, b, c): return Said()
def star(*args): return Said()
def depth(*, depth): return Said()
def twice(shape, input_shape): return Said()
async def later(shape, classes): return Said()
def stream(shape, classes): yield Said()
def crashes(): raise KeyError(f"{object()}")
def leaves(): raise SystemExit(0)
constant = 7
ready = Said()
"""


@pytest.fixture
def user_file(tmp_path):
    path = tmp_path / "my_model.py"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("full", ((SHAPE, 5), {})),
        ("others", ((SHAPE, 5), {})),
        ("keyword", ((5,), {})),
        ("pretrained", ((False, 5), {})),
        ("named", ((SHAPE, 5), {})),
        ("turned", ((SHAPE, 5), {})),
        ("defaults", ((64, 2), {})),
        ("channelled", ((1, 5, 8), {})),
        ("channels_known", ((3, 5), {})),
        ("extra", ((SHAPE, 5, 8), {})),
        ("options", ((), {})),
        ("anonymous", ((SHAPE, 5), {})),
        ("part", ((SHAPE, 5, 5), {})),
        ("Net", ((SHAPE, 5), {})),
    ],
)
def test_a_factory_is_given_what_its_parameters_ask_for(user_file, name, given):
    assert factory_from_file(FileReference(user_file, name))(SHAPE, 5).given == given


def test_a_factory_without_parameters_is_given_nothing(user_file):
    assert factory_from_file(FileReference(user_file, "plain"))(SHAPE, 5).out_features == 3


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("one", "takes (size), and nothing says what to give it: write `def one(shape, classes):`"),
        ("three", "takes (a, b, c)"),
        ("star", "takes (*args)"),
        ("depth", "takes (*, depth)"),
        ("twice", "takes (shape, input_shape)"),
        ("later", "it is an async function; write `def later(shape, classes):`"),
        ("stream", "it is a generator"),
        ("constant", "has no function 'constant': it is a int"),
        ("ready", "it is a Said already"),
        ("functools", "it is a module"),
        ("nett", "has no function 'nett'. It has Options, Said, plain"),
        ("", "has no function ''"),
        ("<lambda>", "has no function '<lambda>'"),
    ],
)
def test_another_signature_is_refused_with_the_one_wanted_before_anything_runs(user_file, name, says):
    with pytest.raises(UsageError) as refused:
        factory_from_file(FileReference(user_file, name))
    assert says in str(refused.value) and "\n" not in str(refused.value) and "0x" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wrong", "the factory gave a int, not a torch.nn.Module"),
        ("kind", "the factory gave the class Net, not a torch.nn.Module"),
        ("pair", "the factory gave a tuple"),
        ("crashes", "fails to make a model: KeyError: '<object>'"),
        ("leaves", "fails to make a model: SystemExit: 0"),
    ],
)
def test_what_makes_no_model_is_one_line(user_file, name, says):
    with pytest.raises(UsageError) as refused:
        factory_from_file(FileReference(user_file, name))(SHAPE, 5)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{dir}/none.py:net", r"no file .*none\.py.*write --classifier path/to/file\.py:factory"),
        ("{dir}:net", r"cannot read --classifier .*expected path/to/file\.py:factory"),
        ("{dir}/no.py/no.py:net", "no file"),
        ("~nobody-here/net.py:net", "no file '~nobody-here/net.py'"),
        ("{dir}/my_model.py", r"my_model\.py.*expected path/to/file\.py:factory"),
        ("{dir}/broken.py:net", r"broken\.py fails to run: ZeroDivisionError: division by zero"),
        ("{dir}/syntax.py:net", r"syntax\.py fails to run: SyntaxError"),
        ("{dir}/exits.py:net", r"exits\.py fails to run: SystemExit: 0"),
        ("{dir}/absent.py:net", r"ModuleNotFoundError: No module named 'nowhere_at_all'.*own directory"),
    ],
)
def test_a_wrong_reference_is_a_usage_error_that_says_what_to_write(tmp_path, user_file, reference, message):
    for name, text in {
        "broken": "1 / 0", "syntax": "def (", "exits": "raise SystemExit(0)", "absent": "import nowhere_at_all",
    }.items():  # fmt: skip
        (tmp_path / f"{name}.py").write_text(text + "\n")
    with pytest.raises(UsageError, match=message):
        factory_from_file(FileReference.of(reference.format(dir=tmp_path)))


def test_a_tilde_is_the_home_directory(user_file, monkeypatch):
    monkeypatch.setenv("HOME", str(user_file.parent))
    assert factory_from_file(FileReference.of("~/my_model.py:full"))(SHAPE, 5).given == ((SHAPE, 5), {})


def test_an_error_is_one_line_without_addresses():
    told = described(ValueError(f"no\n  {nn.Flatten.forward} of {object()}"))
    assert told == "ValueError: no <function Flatten.forward> of <object>"

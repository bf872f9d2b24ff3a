"""A user's own classifier: how its factory is called, what its file may import, which weights fit it."""

from __future__ import annotations

import os
import struct
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from robustbench_gan.base.errors import UsageError, described
from robustbench_gan.base.files import no_file
from robustbench_gan.base.formats import no_safetensors
from robustbench_gan.models.from_file import factory_from_file
from robustbench_gan.models.weight_files import fill
from robustbench_gan.nouns.user_files import FileReference

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
    assert factory_from_file(f"{user_file}:{name}")(SHAPE, 5).given == given


def test_a_factory_without_parameters_is_given_nothing(user_file):
    assert factory_from_file(f"{user_file}:plain")(SHAPE, 5).out_features == 3


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
        factory_from_file(f"{user_file}:{name}")
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
        factory_from_file(f"{user_file}:{name}")(SHAPE, 5)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("{dir}/none.py:net", r"no file .*none\.py.*write --classifier path/to/file\.py:factory"),
        ("{dir}:net", "no file"),
        ("~nobody-here/net.py:net", "no file '~nobody-here/net.py'"),
        ("{dir}/my_model.py", r"my_model\.py.*write --classifier path/to/file\.py:factory"),
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
        factory_from_file(reference.format(dir=tmp_path))


def test_a_tilde_is_the_home_directory(user_file, monkeypatch):
    monkeypatch.setenv("HOME", str(user_file.parent))
    assert factory_from_file("~/my_model.py:full")(SHAPE, 5).given == ((SHAPE, 5), {})


def test_an_error_is_one_line_without_addresses():
    told = described(ValueError(f"no\n  {nn.Flatten.forward} of {object()}"))
    assert told == "ValueError: no <function Flatten.forward> of <object>"


# ---- what lies beside a file


@pytest.mark.parametrize(
    "statement",
    [
        "from layers import WIDTH",
        "from .layers import WIDTH",
        "import layers; WIDTH = layers.WIDTH",
        "from inner.layers import WIDTH",
        "from random import WIDTH",
    ],
)
def test_two_files_each_get_what_lies_beside_them(tmp_path, statement):
    where = "random" if "random" in statement else "layers"
    for folder, width in (("a b", 3), ("b's", 4)):
        (tmp_path / folder / "inner").mkdir(parents=True)
        (tmp_path / folder / f"{where}.py").write_text(f"WIDTH = {width}\n")
        (tmp_path / folder / "inner" / "layers.py").write_text("from .deep import WIDTH\n")
        (tmp_path / folder / "inner" / "deep.py").write_text(f"WIDTH = {width}\n")
        (tmp_path / folder / "net.py").write_text(
            f"from torch import nn\n{statement}\ndef make():\n"
            f"    {statement}\n    return nn.Linear(1, WIDTH)\n"
        )
    path, modules = list(sys.path), dict(sys.modules)
    if where == "random":  # the standard library's own is what torch and everybody else means
        with pytest.raises(UsageError, match="cannot import name 'WIDTH'"):
            factory_from_file(f"{tmp_path}/a b/net.py:make")
    else:
        first, second = (factory_from_file(f"{tmp_path}/{name}/net.py:make") for name in ("a b", "b's"))
        assert [made(SHAPE, 5).out_features for made in (first, second, first)] == [3, 4, 3]
    assert sys.path == path
    changed = {name for name in {*sys.modules, *modules} if sys.modules.get(name) is not modules.get(name)}
    assert all(name.startswith("rbg_user_") for name in changed), changed


def test_a_package_beside_stands_before_what_was_imported_under_its_name(tmp_path, monkeypatch):
    """As in a script; and what the process had under that name is there again afterwards."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "helpers_of_mine.py").write_text("WIDTH = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    import helpers_of_mine

    (tmp_path / "here" / "helpers_of_mine").mkdir(parents=True)
    (tmp_path / "here" / "helpers_of_mine" / "__init__.py").write_text("WIDTH = 2\n")
    (tmp_path / "here" / "net.py").write_text(
        "import helpers_of_mine\nfrom torch import nn\ndef make(): return nn.Linear(1, helpers_of_mine.WIDTH)\n"
    )
    assert factory_from_file(f"{tmp_path}/here/net.py:make")(SHAPE, 5).out_features == 2
    assert sys.modules.pop("helpers_of_mine") is helpers_of_mine and helpers_of_mine.WIDTH == 7


def test_a_file_in_a_package_may_import_from_the_package_above(tmp_path):
    (tmp_path / "mine" / "nets").mkdir(parents=True)
    (tmp_path / "mine" / "__init__.py").write_text("DEPTH = 2\n")
    (tmp_path / "mine" / "nets" / "__init__.py").write_text("")
    (tmp_path / "mine" / "common.py").write_text("from . import DEPTH\nWIDTH = 3 * DEPTH\n")
    (tmp_path / "mine" / "nets" / "net.py").write_text(
        "from ..common import WIDTH\nfrom torch import nn\ndef make(): return nn.Linear(1, WIDTH)\n"
    )
    assert factory_from_file(f"{tmp_path}/mine/nets/net.py:make")(SHAPE, 5).out_features == 6


# ---- weights


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def weights(prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: tensor + 1 for name, tensor in model().state_dict().items()}


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "state_dict.", "module._orig_mod.", "state_dict.model.module."]
)  # fmt: skip
def test_prefixes_of_wrappers_are_taken_off_and_said(prefix):
    made, given = model(), weights(prefix)
    assert fill(made, given, "w", "net") == prefix
    assert all(torch.equal(tensor, given[prefix + name]) for name, tensor in made.state_dict().items())


def test_a_prefix_of_the_model_itself_stays():
    made = nn.Module()
    made.model = nn.Linear(2, 3)
    given = {name: tensor + 1 for name, tensor in made.state_dict().items()}
    assert fill(made, given, "w", "net") == "" and torch.equal(made.model.bias, given["model.bias"])


def drop(tensors, *names):
    return {name: tensor for name, tensor in tensors.items() if name not in names}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (drop(weights(), "0.bias"), "1 of 7 names of the model are not in the file (0.bias)."),
        ({**weights(), "ema": torch.ones(1)}, "1 of 8 names of the file are not in the model (ema)."),
        (weights("backbone."), "take 'backbone.' off the names of the file."),
        ({f"n{i}": torch.ones(1) for i in range(1000)}, "1000 of 1000 names of the file"),
        ({**weights(), "0.weight": torch.ones(3, 4)}, "0.weight has shape (3, 4), expected (3, 2)."),
        (
            {**weights(), "0.weight": torch.ones(3, 2, dtype=torch.int8)},
            "0.weight holds int8, expected float32.",
        ),
        ({}, "6 of 7 names of the model are not in the file"),
    ],
    ids=["missing", "extra", "prefix", "all", "shape", "int8", "empty"],
)
def test_weights_that_do_not_fit_are_one_short_line(given, says):
    with pytest.raises(UsageError) as refused:
        fill(model(), given, "w", "net")
    assert says in str(refused.value) and len(str(refused.value)) < 400 and "\n" not in str(refused.value)


def test_a_wrapped_model_is_told_what_its_names_begin_with():
    wrapped = nn.Module()
    wrapped.inner = model()
    with pytest.raises(UsageError, match=r"put 'inner\.' before the names of the file"):
        fill(wrapped, weights(), "w", "net")


def test_half_weights_widen_exactly_and_tied_ones_may_be_left_out():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.two.weight = self.one.weight

    made, half = Tied(), torch.rand(3, 3).half()
    assert fill(made, {"one.weight": half}, "w", "net") == ""
    assert made.two.weight.dtype == torch.float32 and torch.equal(made.two.weight, half.float())


def cut(path):
    save_file(weights(), path)
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: torch.save(weights(), path), "torch.load("),
        (lambda path: torch.save(weights(), path, _use_new_zipfile_serialization=False), "it is a pickle"),
        (lambda path: torch.jit.script(nn.Linear(2, 2)).save(str(path)), "it is TorchScript"),
        (lambda path: path.write_bytes(b""), "it is empty"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
        (lambda path: path.write_text("\n<!DOCTYPE html><html>"), "a page of the web"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50)), "HDF5"),
        (lambda path: path.write_text("{}"), "does not begin as a safetensors file does"),
        (lambda path: path.write_bytes(struct.pack("<Q", 300) + b'{"a":'), "it is cut off: it has 13 of at least 308"),
        (lambda path: path.write_bytes(b"PK\x03\x04cut"), "it is cut off"),
        (cut, "it is cut off: it has"),
        (lambda path: path.mkdir(), "it is a directory"),
        (os.mkfifo, "it is a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
        (lambda path: path.symlink_to(path.parent / "gone"), "there is no such file"),
        (lambda path: None, "there is no such file"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_file_of_something_else_is_named_by_what_it_holds(tmp_path, make, says):
    path = tmp_path / "w.safetensors"
    make(path)
    found = no_file(path) or no_safetensors(path)
    assert says in found and "\n" not in found


def test_the_two_lines_that_a_pickle_is_converted_by_convert_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(weights(), "it's.pt")
    lines = (
        no_safetensors(tmp_path / "it's.pt")
        .partition("convert it once: ")[2]
        .partition("; where they lie")[0]
    )
    exec(lines, {})
    made = tmp_path / "it's.safetensors"
    assert no_safetensors(made) == ""
    assert all(
        torch.equal(tensor, weights()[name]) for name, tensor in load_file(made).items() if "num" in name
    )


def test_a_header_of_640_bytes_is_no_pickle(tmp_path):
    """Its length begins with the bytes that every pickle begins with."""
    path = tmp_path / "w.safetensors"
    save_file(weights(), path)
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    path.write_bytes(
        struct.pack("<Q", 640)
        + path.read_bytes()[8 : 8 + length].ljust(640)
        + path.read_bytes()[8 + length :]
    )
    assert path.read_bytes()[:2] == b"\x80\x02" and no_safetensors(path) == ""


def test_a_file_whose_name_is_no_text_has_a_name_in_records():
    published = FileReference.parse("dir/n\udcffet.py:make").published("0123456789abcdef")
    assert published.encode() == b"n\\udcffet.py:make@01234567"


def test_the_line_that_shards_are_joined_by_joins_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = weights()
    for at, (name, tensor) in enumerate(whole.items()):
        save_file({name: tensor}, tmp_path / f"model-{at}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {}}')
    exec(no_safetensors(index).partition("join them once: ")[2], {})
    joined = load_file(tmp_path / "joined.safetensors")
    assert set(joined) == set(whole) and all(joined[name].equal(tensor) for name, tensor in whole.items())

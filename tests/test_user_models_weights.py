"""Weights for a user's own model: which fit it, and how the rest is refused and converted."""

from __future__ import annotations

import os
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import no_file
from robustbench_gan.base.formats import no_safetensors
from robustbench_gan.models.weight_files import fill
from robustbench_gan.nouns.spec import FileReference

SHAPE = (1, 28, 28)


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
    assert str(published).encode() == b"n\\udcffet.py:make@01234567"


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

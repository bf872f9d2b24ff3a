"""What lies beside a user's own model file: each file imports its own neighbours."""

from __future__ import annotations

import sys

import pytest

from robustbench_gan.base.errors import UsageError
from robustbench_gan.models.from_file import factory_from_file
from robustbench_gan.nouns.spec import FileReference

SHAPE = (1, 28, 28)


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
            factory_from_file(FileReference.of(f"{tmp_path}/a b/net.py:make"))
    else:
        first, second = (
            factory_from_file(FileReference.of(f"{tmp_path}/{name}/net.py:make")) for name in ("a b", "b's")
        )
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
    assert factory_from_file(FileReference.of(f"{tmp_path}/here/net.py:make"))(SHAPE, 5).out_features == 2
    assert sys.modules.pop("helpers_of_mine") is helpers_of_mine and helpers_of_mine.WIDTH == 7


def test_a_file_in_a_package_may_import_from_the_package_above(tmp_path):
    (tmp_path / "mine" / "nets").mkdir(parents=True)
    (tmp_path / "mine" / "__init__.py").write_text("DEPTH = 2\n")
    (tmp_path / "mine" / "nets" / "__init__.py").write_text("")
    (tmp_path / "mine" / "common.py").write_text("from . import DEPTH\nWIDTH = 3 * DEPTH\n")
    (tmp_path / "mine" / "nets" / "net.py").write_text(
        "from ..common import WIDTH\nfrom torch import nn\ndef make(): return nn.Linear(1, WIDTH)\n"
    )
    assert (
        factory_from_file(FileReference.of(f"{tmp_path}/mine/nets/net.py:make"))(SHAPE, 5).out_features == 6
    )

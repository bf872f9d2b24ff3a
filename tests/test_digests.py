"""What changes the hash of a plugin's code, and what does not."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest
from planted import plant

from robustbench_gan.base.digests import code_digest, code_of
from robustbench_gan.nouns import registry

POINT = "[robustbench_gan.attacks]\nzap = rbg_many.zap:zap\n"

DIGEST = """
from robustbench_gan.nouns import registry
from robustbench_gan.base.digests import code_digest
print(code_digest(registry.entry("attacks", "zap").point.load()))
"""

PACKAGE = {
    "rbg_many/__init__.py": "",
    "rbg_many/zap.py": (
        "import math\nfrom rbg_many import tool\nfrom rbg_many.tables import STEP\n"
        "from rbg_many.helper import double\n"
        "def zap(view, x):\n    from rbg_many.late import thing\n    return double(STEP) + thing + tool.n\n"
    ),
    "rbg_many/helper.py": "from .deep import two\ndef double(v):\n    return two() * v\n",
    "rbg_many/deep.py": "def two():\n    return 2\n",
    "rbg_many/tables.py": "STEP = 0.1\n",
    "rbg_many/tool.py": "n = 1\n",
    "rbg_many/late.py": "thing = 1\n",
    "rbg_many/other.py": "def unrelated():\n    return 1\n",
}


def digest_of(root, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", DIGEST], capture_output=True, text=True, env=env, check=True, cwd=tmp_path
    )
    return done.stdout.strip()


def in_process_digest():
    """What a fresh process would say, without paying for one: forget the modules and import anew."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "rbg_many"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    return code_digest(registry.entry("attacks", "zap").point.load())


@pytest.mark.parametrize("changed", ["zap", "helper", "deep", "tables", "tool", "late"])
def test_code_digest_changes_with_every_module_of_the_package_that_the_plugin_uses(plugin_path, changed):
    plant(plugin_path, "many", POINT, PACKAGE)
    before = in_process_digest()
    assert in_process_digest() == before
    module = plugin_path / f"rbg_many/{changed}.py"
    module.write_text(module.read_text() + "changed = 1\n")
    assert in_process_digest() != before


def test_code_digest_ignores_modules_that_the_plugin_does_not_use(plugin_path):
    plant(plugin_path, "many", POINT, PACKAGE)
    before = in_process_digest()
    (plugin_path / "rbg_many/other.py").write_text("def unrelated():\n    return 2\n")
    assert in_process_digest() == before


ALONE = {
    "zap_alone.py": "import numpy\nimport robustbench_gan\nfrom zap_beside import STEP\ndef zap(view, x):\n    return STEP\n",
    "zap_beside.py": "import zap_behind\nSTEP = zap_behind.STEP\n",
    "zap_behind.py": "STEP = 1\n",
    "zap_other.py": "STEP = 1\n",
}


@pytest.mark.parametrize(
    ("directory", "changed", "counts"),
    [
        (".", "zap_beside", True), (".", "zap_behind", True), (".", "zap_other", False),
        ("site-packages", "zap_beside", False),  # where neighbours are strangers
    ],
)  # fmt: skip
def test_a_module_without_a_package_counts_those_beside_it(tmp_path, monkeypatch, directory, changed, counts):
    where = tmp_path / directory
    where.mkdir(exist_ok=True)
    monkeypatch.syspath_prepend(where)

    def digest():
        for name in ALONE:
            sys.modules.pop(name.removesuffix(".py"), None)
        importlib.invalidate_caches()
        return code_digest(importlib.import_module("zap_alone").zap)

    for name, text in ALONE.items():
        (where / name).write_text(text)
    before = digest()
    (where / f"{changed}.py").write_text("import zap_behind\nSTEP = 2222\n")
    assert (digest() != before) == counts


def test_code_digest_is_the_same_in_another_process(plugin_path, tmp_path):
    plant(plugin_path, "many", POINT, PACKAGE)
    assert digest_of(plugin_path, tmp_path) == in_process_digest()


BARE = b"""\
import math
class Step:
    size = 1
    def twice(self):
        return 2 * self.size
def area(r):
    text = '''one

# two
'''
    return math.pi * r * len(text)
"""
SAID = b'''\
# -*- coding: utf-8 -*-
"""A module.

With \xc3\xa9 and \xe2\x80\xa8 in it.
"""

import math

# Why this number.
class Step:
    """One step."""

    size = 1

    def twice(self):
        # a comment
        """Double it."""  # and one behind
        return 2 * self.size


def area(r):
    """Of a circle.

    # no comment
    """
    text = \'\'\'one

# two
\'\'\'
    return math.pi * r * len(text)
'''


def test_docstrings_comment_lines_and_blank_lines_are_no_code():
    assert code_of(SAID) == code_of(BARE) == BARE.decode().rstrip("\n")


@pytest.mark.parametrize(
    "change",
    [
        (b"2 * self", b"3 * self"),
        (b"one\n\n", b"one\n"),  # in a string a blank line says something
        (b"# two", b"# three"),
        (b"    return math", b"    text = 1\n    return math"),
        (b"        return 2", b"    return 2"),
    ],
)
def test_everything_else_is_code(change):
    before, after = (code_of(source) for source in (SAID, SAID.replace(*change)))
    assert SAID.count(change[0]) == 1 and before != after


def test_a_docstring_that_shares_its_line_with_code_stays():
    assert code_of(b'def f(): "one"; return 1\n') != code_of(b'def f(): "two"; return 1\n')
    assert "return 1" in code_of(b'def f():\n    "one"; return 1\n')


def test_line_ends_decide_nothing():
    assert code_of(BARE.replace(b"\n", b"\r\n")) == code_of(BARE)


def test_code_digest_does_not_change_with_what_a_plugin_says(plugin_path):
    plant(plugin_path, "many", POINT, PACKAGE)
    before = in_process_digest()
    for name in ("zap", "helper"):
        module = plugin_path / f"rbg_many/{name}.py"
        module.write_text(f'"""What it is for."""\n\n# why\n{module.read_text()}')
    assert in_process_digest() == before

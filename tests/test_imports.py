"""Dependencies point one way; the imports of every file are read and held to it."""

from __future__ import annotations

import ast
import functools
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import rbg_attacks
import rbg_controls
import rbg_defenses

import robustbench_gan
from robustbench_gan.engine import identity
from robustbench_gan.flags.identity import CHECKS

CORE = Path(robustbench_gan.__file__).parent
PLUGINS = {p.__name__: Path(p.__file__).parent for p in (rbg_attacks, rbg_controls, rbg_defenses)}
# A room knows those before it and none after it; CONTRIBUTING.md draws them.
ROOMS = [
    "base", "nouns", "flags", "guards", "data", "models", "contracts", "training", "results", "cell", "leaderboard",
    "engine", "audit", "api", "cli",
]  # fmt: skip
MOST_LINES = 300  # of a file
MOST_LEVELS = 11  # of imports that stand on each other
FACADES = {"seeds", "testing"}  # public names of what lies in rooms
CELL = [
    f"cell.{name}" for name in ("context", "prepare", "craft", "judge", "provenance", "estimate", "evaluate")
]
NO_TORCH = [
    "nouns.registry", "nouns.record", "nouns.fields", "nouns.statistics", "nouns.detection", "audit.controls", "base.errors", "base.progress", "flags",
    "leaderboard", "audit.record", "audit.compare", "audit.printing",
]  # fmt: skip


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def in_type_checking(tree: ast.AST) -> set[ast.AST]:
    """Nodes below `if TYPE_CHECKING:`, which never run."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            found |= {below for statement in node.body for below in ast.walk(statement)}
    return found


def imports(source: str, module: str, is_package: bool, at_top: bool = False) -> set[str]:
    """Every module that a source may import, in full; `at_top`: only what importing it runs."""
    tree = ast.parse(source)
    skipped = in_type_checking(tree)
    if at_top:
        functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        skipped |= {b for node in ast.walk(tree) if isinstance(node, functions) for b in ast.walk(node)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[
                    : None if is_package and node.level == 1 else -(node.level - is_package)
                ]
                base = ".".join([*parents, *([base] if base else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


@functools.cache
def read(root: Path, at_top: bool = False) -> dict[str, set[str]]:
    return {
        module_name(path, root): imports(
            path.read_text(encoding="utf-8"), module_name(path, root), path.name == "__init__.py", at_top
        )
        for path in sorted(root.rglob("*.py"))
    }


def reaches(found: set[str], *targets: str) -> set[str]:
    return {name for name in found for t in targets if name == t or name.startswith(t + ".")}


def transitive(start: str, graph: dict[str, set[str]]) -> set[str]:
    """Every module that importing `start` runs, packages on the way included."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        parents = [name.rpartition(".")[0]] if "." in name else []
        todo += [n for n in [*graph.get(name, ()), *parents] if n]
    return seen


def core_modules(*names: str) -> list[str]:
    every = read(CORE)
    return [
        m
        for m in every
        for n in names
        if m == f"robustbench_gan.{n}" or m.startswith(f"robustbench_gan.{n}.")
    ]


@pytest.mark.parametrize(
    ("source", "module", "is_package", "expected"),
    [
        ("import torch.nn as nn", "a.b", False, {"torch.nn"}),
        ("from torch import nn", "a.b", False, {"torch", "torch.nn"}),
        ("def f():\n    import torch", "a.b", False, {"torch"}),
        ("from . import c", "a.b", False, {"a", "a.c"}),
        ("from .c import d", "a.b", False, {"a.c", "a.c.d"}),
        ("from . import c", "a.b", True, {"a.b", "a.b.c"}),
        ("from ..c import d", "a.b", True, {"a.c", "a.c.d"}),
        ("from ..c import d", "a.b.x", False, {"a.c", "a.c.d"}),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", "a", False,
         {"typing", "typing.TYPE_CHECKING"}),
    ],
)  # fmt: skip
def test_the_reader_of_imports_sees_them(source, module, is_package, expected):
    assert imports(source, module, is_package) == expected


def test_the_reader_tells_what_runs_at_import():
    source = "import a\ndef f():\n    import b\nclass C:\n    import c\n    def g(self):\n        import d\n"
    assert imports(source, "m", False, at_top=True) == {"a", "c"}


@pytest.mark.parametrize("name", core_modules(*NO_TORCH))
def test_what_reads_records_never_imports_torch_not_even_through_another(name):
    graph = read(CORE, at_top=True)
    assert not reaches(transitive(name, graph), "torch", "safetensors.torch", "foolbox")
    assert not reaches(read(CORE)[name], "torch")


PROBE = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
sys.exit(",".join(sorted(m for m in sys.modules if m.partition(".")[0] == "torch"))[:200] or 0)
"""


def test_importing_them_really_leaves_torch_out():
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *core_modules(*NO_TORCH)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


PUBLIC = ("", ".contracts", ".leaderboard", ".seeds", ".testing", ".training")


@pytest.mark.parametrize("place", PUBLIC)
def test_public_names_are_there_and_are_no_modules_of_their_own_package(place):
    package = importlib.import_module(f"robustbench_gan{place}")
    paths = getattr(package, "__path__", [])
    modules = {path.stem for root in paths for path in Path(root).glob("*.py")}
    assert not modules & set(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None, name
    with pytest.raises(AttributeError, match=f"robustbench_gan{place}' has no attribute 'no_such_name'"):
        package.no_such_name  # noqa: B018


EXAMPLES = CORE.parent / "examples"


@pytest.mark.parametrize("root", [*PLUGINS.values(), EXAMPLES], ids=lambda root: root.name)
def test_plugins_and_examples_import_public_names_alone(root):
    for name, found in read(root).items():
        for place in {f for f in found if f.partition(".")[0] == "robustbench_gan"}:
            package, _, public = place.rpartition(".")
            offered = {f"robustbench_gan{p}" for p in PUBLIC} | {
                "robustbench_gan.cli",
                "robustbench_gan.cli.main",
            }
            assert place in offered or public in importlib.import_module(package).__all__, (name, place)


def test_nothing_in_the_core_imports_a_plugin():
    for name, found in read(CORE).items():
        assert not {f for f in found if f.startswith("rbg_")}, name


@pytest.mark.parametrize("package", PLUGINS)
def test_plugins_import_neither_the_engine_nor_each_other(package):
    others = [p for p in (*PLUGINS, "rbg_figures") if p != package]
    above = [f"robustbench_gan.{room}" for room in ROOMS[ROOMS.index("results") :]]
    for name, found in read(PLUGINS[package]).items():
        assert not reaches(found, *above, *others), name


def room_of(module: str) -> str:
    return [*module.split("."), ""][1]


def test_every_module_lies_in_a_room():
    assert {room_of(name) for name in read(CORE)} - FACADES == {"", *ROOMS}
    assert {name for name in read(CORE) if name.count(".") == 1} == {
        f"robustbench_gan.{name}" for name in [*ROOMS, *FACADES]
    }


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_none_of_those_after_it(room):
    after = [f"robustbench_gan.{name}" for name in (*ROOMS[ROOMS.index(room) + 1 :], "testing")]
    for name, found in read(CORE).items():
        if room_of(name) == room:
            assert not reaches(found, *after), name


def test_no_module_stands_on_a_long_chain_of_imports():
    every = read(CORE)
    modules = every.keys()

    @functools.cache
    def chain(module: str) -> list[str]:
        """The longest chain of imports that begins with a module; those inside functions count as well."""
        own = every[module] & modules - {module}
        below = [
            name for name in sorted(own) if reaches(own, name) == {name}
        ]  # a room, where one of its modules is meant
        return [module, *max(map(chain, below), key=len, default=[])]

    longest = max(map(chain, sorted(modules)), key=len)
    assert len(longest) <= MOST_LEVELS, " <- ".join(longest)


def test_every_file_can_be_read_at_a_sitting():
    roots = [CORE, *PLUGINS.values()]
    long = {
        str(path): count
        for root in roots
        for path in root.rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert not long


def test_the_steps_of_a_cell_are_called_from_above():
    graph = read(CORE)
    for at, name in enumerate(CELL):
        above = CELL[-1:] if 0 < at < len(CELL) - 1 else CELL[at + 1 :]
        assert not reaches(
            graph[f"robustbench_gan.{name}"], *(f"robustbench_gan.{other}" for other in above)
        ), name


def test_every_step_of_a_cell_identifies_the_engine_but_the_estimate_of_its_time():
    assert {name.replace(".", "/") for name in CELL} - set(identity.ENGINE) == {
        "cell/estimate"
    }  # which decides no answer
    assert list(identity.ENGINE) == sorted(set(identity.ENGINE))


def test_what_only_decides_flags_is_no_part_of_the_engine():
    """A threshold of a check changes `checks` alone; what is counted while an attack runs changes both."""
    flags = {path.stem for path in (CORE / "flags").glob("*.py")}
    others = {
        "__init__",
        "across",
        "identity",
        "paired",
        "printing",
        "refusals",
        "seen",
    }  # of no cell with a number
    assert flags - set(CHECKS) == others
    assert {name for name in CHECKS if f"flags/{name}" in identity.ENGINE} == {"counting"}
    assert not {name for name in flags - set(CHECKS) if f"flags/{name}" in identity.ENGINE}


def test_a_system_that_is_no_posix_is_told_what_to_do(monkeypatch):
    init = Path(robustbench_gan.__file__)
    monkeypatch.setattr("os.name", "nt")
    with pytest.raises(ImportError, match="runs on Linux and macOS"):
        exec(compile(init.read_bytes(), "init", "exec"), {"__name__": "robustbench_gan"})

"""`planted_cells`, its attacks and its defenses behind real entry points, and the short way from a matrix to results.

A test module imports `installed`, a fixture that every test of the module then runs under.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from planted import on_the_path, plant

from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.cell.question import Planned
from robustbench_gan.engine.layout import lay_out
from robustbench_gan.engine.matrix import read_matrix
from robustbench_gan.nouns.record import Result
from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import Workshop

HERE = Path(__file__).parent
ATTACKS = (
    "same", "over", "out_of_box", "nan", "wrong_shape", "wrong_dtype", "no_tensor", "edits", "crashes",
    "never_calls", "no_backward", "interrupted", "waits", "dies", "bit",
    "raises", "clings", "leaves_a_copy", "strays", "tidies",
)  # fmt: skip
DEFENSES = (
    "RejectAll", "Detached", "ZeroGradient", "AnswersNaN", "SecretlyRandom", "FailsToFit", "Lock", "Noisy",
    "Remembers", "ExitsWhereAsked", "DiesInTraining", "OtherRange", "Untrained", "Descends", "Notices", "Swaps",
)  # fmt: skip
MODELS = ("fixed", "read", "bent", "quick", "sharp", "stepped", "softmaxed", "dropped", "answers")


def entry_points() -> str:
    """The entry_points.txt of the planted distribution, with a plugin that fails to import."""

    def lines(module: str, names: tuple[str, ...]) -> list[str]:
        return [f"{name.replace('_', '-').lower()} = {module}:{name}" for name in names]

    return "\n".join([
        "[robustbench_gan.attacks]", *lines("planted_attacks", ATTACKS),
        "broken = planted_broken:attack", "unregistered = planted_attacks:unregistered",
        "[robustbench_gan.defenses]", *lines("planted_defenses", DEFENSES),
        "[robustbench_gan.models]", *lines("planted_cells", MODELS),
        "[robustbench_gan.datasets]", "grey = planted_cells:grey",
    ])  # fmt: skip


def write_site(root: Path) -> Path:
    """A directory that, on the path, installs the planted distribution."""
    return plant(
        root,
        "planted",
        entry_points(),
        {"planted_broken.py": "raise ImportError('planted: no such thing')\n"},
    )


def environment(root: Path, cache: Path) -> dict[str, str]:
    """The environment of a subprocess that sees the planted plugins and its own cache."""
    path = os.pathsep.join([str(root), str(HERE)])
    return {**os.environ, "PYTHONPATH": path, "RBG_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The planted plugins, installed for one test module."""
    root = write_site(tmp_path_factory.mktemp("site"))
    with on_the_path(root):
        yield root
    sys.modules.pop("planted_broken", None)


def also_installed(name: str, *entry_points: str, files: dict[str, str] | None = None) -> Any:
    """A fixture for a test module that imports `installed`: these plugins are installed as well while it runs."""

    @pytest.fixture(scope="module", autouse=True)
    def fixture(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        root = tmp_path_factory.mktemp(name)
        for at, text in enumerate(entry_points):
            plant(root, f"{name}-{at}", text, files or {})
        with on_the_path(root):
            yield

    return fixture


DEFAULTS: dict[str, Any] = {
    "datasets": ["grey"], "classifiers": ["fixed"], "attacks": ["fgsm"], "threats": ["white-box"],
    "eps": [0.1], "samples": 20,
}  # fmt: skip


def workshop(root: Path) -> Workshop:
    return Workshop(Store(root / "artifacts"))


def planned(where: Workshop, **asked: Any) -> list[Planned]:
    """The cells of a matrix: lists may be given as their one element."""
    lists = {"datasets", "classifiers", "defenses", "attacks", "threats", "goals", "eps"}
    given = {k: [v] if k in lists and not isinstance(v, list) else v for k, v in asked.items()}
    return lay_out(read_matrix("", "the test", {**DEFAULTS, **given}), where)


def cell(where: Workshop, *, batch_size: int = 200, **asked: Any) -> Result:
    """The result of the one cell asked for."""
    (only,) = planned(where, **asked)
    return evaluate_cell(only, where, Settings(batch_size))


def judged(result: Result) -> Any:
    """The outcomes of a result that must have some; the reason and the place where it does not."""
    assert result.outcomes is not None, (result.status, result.reason, result.traceback)
    return result.outcomes


def flags(result: Result) -> dict[str, str]:
    return {flag.id: flag.severity for flag in result.flags}

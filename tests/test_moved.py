"""The names that the guide to plugins gave before the rooms still work, and say where they are now."""

from __future__ import annotations

import importlib
import sys
import warnings

import pytest

import robustbench_gan
from robustbench_gan import models
from robustbench_gan.base.moved import MOVED, OUT_OF_ROOMS
from robustbench_gan.contracts import Defense, View, attack
from robustbench_gan.training import Schedule, Workshop, code_digest, kept


@pytest.fixture
def anew(monkeypatch):
    """Old modules are imported again, as in a new process."""
    for name in MOVED:
        monkeypatch.delitem(sys.modules, f"robustbench_gan.{name}", raising=False)
        monkeypatch.delattr(robustbench_gan, name, raising=False)


@pytest.mark.parametrize("old", MOVED)
def test_an_old_module_warns_once_in_the_line_that_imports_it_and_names_the_new_one(anew, old):
    with pytest.warns(
        DeprecationWarning, match=rf"robustbench_gan\.{old} goes.*robustbench_gan\.{MOVED[old][0]}"
    ) as seen:
        exec(compile(f"import robustbench_gan.{old}", "theirs.py", "exec"), {})
    assert [w.filename for w in seen] == ["theirs.py"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.import_module(f"robustbench_gan.{old}")
    for place in MOVED[old]:
        importlib.import_module(f"robustbench_gan.{place}")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_the_guide_named_is_what_it_is_now(anew):
    old: dict[str, object] = {}
    lines = (
        "attack import attack, TrainedAttack", "defense import Defense", "threat import View, Counts",
        "digests import code_digest", "errors import UsageError, NotApplicable, Fatal", "progress import task",
        "checkpoint import kept, unfinished", "workshop import Workshop", "models import Schedule, small_cnn",
        "training import device_of, going_on, optimise", "seeds import normal", "data.dataset import Dataset",
        "registry import load, Spec", "budget import Budget", "outcome import Goal", "store import Store",
        "batching import micro_batches", "door import WrongForm",
    )  # fmt: skip
    for line in lines:
        exec(f"from robustbench_gan.{line}", old)
    new = {"attack": attack, "Defense": Defense, "View": View, "code_digest": code_digest, "kept": kept}
    new |= {"Workshop": Workshop, "Schedule": Schedule}
    assert {name: old[name] for name in new} == new


def test_a_name_that_was_never_there_is_refused_as_ever(anew):
    with pytest.raises(ModuleNotFoundError, match=r"robustbench_gan\.nothing"):
        importlib.import_module("robustbench_gan.nothing")
    with pytest.warns(DeprecationWarning), pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from robustbench_gan.threat import nothing", {})


@pytest.mark.parametrize("name", OUT_OF_ROOMS["models"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_was_in_models_is_still_there(name):
    assert getattr(models, name) is not None


def test_what_was_in_models_is_named_where_it_lies_now():
    with pytest.warns(
        DeprecationWarning, match=r"models\.Schedule goes.*import it from robustbench_gan\.training"
    ):
        assert models.Schedule is Schedule

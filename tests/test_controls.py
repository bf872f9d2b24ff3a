"""Positive controls: every planted fault is caught by what is meant for it, and no honest system is accused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from robustbench_gan import registry, self_test
from robustbench_gan.cli import main
from robustbench_gan.controls import ATTACKS, CONTROLS, HONEST, SYSTEMS, Control
from robustbench_gan.flags import CATALOGUE
from robustbench_gan.matrix import preset_text, presets
from robustbench_gan.registry import Spec, parse_chain
from robustbench_gan.self_test import Found, Row, in_cells
from robustbench_gan.store import Store
from robustbench_gan.workshop import Workshop

FAULTS = [c for c in (*SYSTEMS, *ATTACKS) if c.found_by == "cell"]
LIGHT = [c for c in HONEST if c.name in ("none", "jpeg", "bit-depth", "median")]
BY_NAME = {c.name: c for c in CONTROLS}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """One workshop for all controls: the classifier is trained once."""
    return Workshop(Store(tmp_path_factory.mktemp("controls")))


def by_name(control):
    return control.name


# ---- the table


def test_every_control_has_its_own_name_and_every_flag_is_of_the_catalogue():
    assert len(BY_NAME) == len(CONTROLS)
    assert {c.flag for c in CONTROLS if c.flag} <= set(CATALOGUE)
    assert not any(c.honest for c in (*SYSTEMS, *ATTACKS)) and all(c.honest for c in HONEST)
    assert len(HONEST) >= 10


def test_who_finds_a_fault_is_whoever_computes_its_flag():
    for control in (*SYSTEMS, *ATTACKS):
        if control.flag:
            assert (CATALOGUE[control.flag].where == "audit") == (control.found_by == "audit"), control.name


@pytest.mark.parametrize("group", ["attacks", "defenses"])
def test_what_is_registered_as_a_control_stands_in_the_table(group):
    registered = {name for name in registry.entries(group) if registry.is_control(name)}
    specs = [
        s
        for c in CONTROLS
        for s in (map(Spec.parse, c.attacks) if group == "attacks" else parse_chain(c.defense))
    ]
    assert registered == {s.name for s in specs if registry.is_control(s.name)} and len(registered) >= 8
    assert not registered & set(registry.names(group))
    for name in registered:
        assert registry.summary(registry.load(group, name)).startswith("Control: ")


def test_no_preset_holds_a_control_and_rbg_list_shows_them():
    assert not [name for name in presets() if registry.CONTROL in preset_text(name)]
    listed = json.loads(CliRunner().invoke(main, ["list", "attacks", "--json"]).stdout)
    (hang,) = [e for e in listed if e["name"] == "control-hang"]
    assert hang["summary"].startswith("Control: ")
    assert "control-" not in CliRunner().invoke(main, ["list", "attacks", "--names"]).stdout


def test_a_typing_error_is_not_answered_with_a_control():
    told = CliRunner().invoke(main, ["evaluate", "--attack", "contrl-hang"])
    assert told.exit_code == 2 and "control-hang" not in told.stderr


# ---- what counts as caught


def test_a_fault_is_caught_by_what_is_meant_for_it_alone(shop):
    right = BY_NAME["exception"]
    assert in_cells("control-digits")(right, shop, 0).caught
    for wrong in (
        replace(right, reason="KeyError"),
        replace(right, status="suspect"),
        replace(right, flag="no-perturbation"),
    ):
        assert not in_cells("control-digits")(wrong, shop, 0).caught


def test_a_fault_that_is_not_there_is_not_caught_and_one_that_is_accuses_an_honest_name(shop):
    sound = replace(BY_NAME["zero-gradient"], defense="none")
    assert not in_cells("control-digits")(sound, shop, 0).caught
    guilty = Control(
        "guilty",
        "a gradient killer under an honest name",
        "control-zero-gradient",
        threat="white-box:gradient=full",
    )
    assert guilty.honest and not in_cells("control-digits")(guilty, shop, 0).caught


def test_an_audit_is_asked_for_its_own_controls_alone(shop):
    asked = []

    def audit(control, workshop, seed):
        asked.append((control.name, workshop.train_seed, seed))
        return Found(("masked-gradient (invalid)",), ("ok",), control.flag == "masked-gradient")

    some = [BY_NAME["wrong-gradient"], BY_NAME["batch-coupled"], BY_NAME["exception"]]
    run = lambda **more: self_test.self_test([1], store=shop.store, controls=some, **more)  # noqa: E731
    assert [row.control for row in run()] == ["exception"] and asked == []
    rows = run(audit=audit)
    assert asked == [("wrong-gradient", 1, 1), ("batch-coupled", 1, 1)]
    assert {row.control: row.caught for row in rows} == {
        "wrong-gradient": True,
        "batch-coupled": False,
        "exception": True,
    }


@pytest.mark.parametrize(("caught", "code"), [(True, 0), (False, 1)])
def test_the_command_exits_with_1_where_one_row_is_wrong(monkeypatch, caught, code):
    rows = [
        Row((), ("ok",), True, "none", "nothing invalid", 3),
        Row((), ("ok",), caught, "noise", "a flag", 3),
    ]
    monkeypatch.setattr(self_test, "self_test", lambda seeds, **more: rows)
    done = CliRunner().invoke(main, ["self-test", "--seed", "3", "--json", "--device", "cpu"])
    assert done.exit_code == code
    assert [row["caught"] for row in json.loads(done.stdout)] == [True, caught]
    done = CliRunner().invoke(main, ["self-test", "--seed", "3", "--device", "cpu"])
    assert done.exit_code == code and f"{1 + caught} of 2 as meant" in done.stderr


# ---- the controls themselves


@pytest.mark.parametrize("control", FAULTS, ids=by_name)
def test_a_planted_fault_is_caught(shop, control):
    found = in_cells("control-digits")(control, shop, 0)
    assert found.caught, found


@pytest.mark.parametrize("control", LIGHT, ids=by_name)
def test_an_honest_system_is_accused_of_nothing_invalid(shop, control):
    found = in_cells("control-digits")(control, shop, 0)
    assert found.caught, found


def test_what_rejects_everything_is_not_robust(shop):
    (result,) = self_test.cells(BY_NAME["reject-all"], shop, 0, "control-digits")
    assert result.accuracy("robust").value == 0 and result.accuracy("clean").value == 0


@pytest.mark.figures
def test_all_controls_go_as_meant_over_three_seeds(tmp_path):
    rows = self_test.self_test(store=Store(tmp_path))
    assert len(rows) == 3 * sum(c.found_by == "cell" for c in CONTROLS)
    assert [row for row in rows if not row.caught] == []


def test_the_stored_table_is_of_these_controls_over_three_seeds():
    from pathlib import Path

    rows = json.loads((Path(__file__).parents[1] / "docs" / "self_test.json").read_text(encoding="utf-8"))
    cells = [c for c in CONTROLS if c.found_by == "cell"]
    assert {(r["control"], r["meant"]) for r in rows} >= {(c.name, c.meant) for c in cells}
    assert {r["seed"] for r in rows} == {0, 1, 2} and all(r["caught"] for r in rows)

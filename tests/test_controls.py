"""Positive controls: every planted fault is caught by what is meant for it, and no honest system is accused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from robustbench_gan.audit import self_test
from robustbench_gan.audit.catalogue import chosen
from robustbench_gan.audit.controls import ATTACKS, CONTROLS, HONEST, SYSTEMS, Control
from robustbench_gan.audit.self_test import Row, by_audit, in_cells
from robustbench_gan.cli import main
from robustbench_gan.engine.matrix import preset_text, presets
from robustbench_gan.flags import CATALOGUE
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.spec import Chain, Spec
from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import Workshop

FAULTS = (*SYSTEMS, *ATTACKS)
LIGHT = [c for c in HONEST if c.name in ("none", "jpeg", "bit-depth", "median", "none-audited")]
BY_NAME = {c.name: c for c in CONTROLS}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """One workshop for all controls: the classifier is trained once."""
    return Workshop(Store(tmp_path_factory.mktemp("controls")))


def by_name(control):
    return control.name


def find(control, shop, seed=0):
    """What the self-test finds of one control."""
    by = {"audit": by_audit("control-digits", chosen), "cell": in_cells("control-digits")}
    return by[control.found_by](control, shop, seed)


# ---- the table


def test_every_control_has_its_own_name_and_every_flag_is_of_the_catalogue():
    assert len(BY_NAME) == len(CONTROLS)
    assert {c.flag for c in CONTROLS if c.flag} <= set(CATALOGUE)
    assert not any(c.honest for c in (*SYSTEMS, *ATTACKS)) and all(c.honest for c in HONEST)
    assert len(HONEST) >= 10


def test_who_finds_a_fault_is_whoever_computes_its_flag():
    """An audit may look again for what a cell raises, where the cell has a control of its own."""
    found = [(c.flag, c.found_by) for c in (*SYSTEMS, *ATTACKS) if c.flag]
    for flag, by in found:
        if by == "cell" or (flag, "cell") not in found:
            assert (CATALOGUE[flag].where == "audit") == (by == "audit"), flag


@pytest.mark.parametrize("group", ["attacks", "defenses"])
def test_what_is_registered_as_a_control_stands_in_the_table(group):
    registered = {name for name in registry.entries(group) if registry.is_control(name)}
    specs = [
        s
        for c in CONTROLS
        for s in (map(Spec.parse, c.attacks) if group == "attacks" else Chain.parse(c.defense))
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


def test_an_audit_catches_its_controls_by_the_check_and_the_flag_meant_for_them(shop):
    coupled, wrong = BY_NAME["batch-coupled-audited"], BY_NAME["wrong-gradient"]
    assert find(coupled, shop).raised == ("batch-dependent (invalid)",)
    assert find(wrong, shop).raised == ("masked-gradient (invalid)",)
    for other in (
        replace(coupled, flag="masked-gradient"),
        replace(coupled, checks=("state",)),  # which does not look for it
        replace(coupled, defense="none"),
        replace(coupled, flag=""),  # guilty under an honest name
        replace(wrong, checks=("label-leaking",)),  # which does not apply, and so has seen nothing
        replace(BY_NAME["none-audited"], checks=("label-leaking",)),
    ):
        assert not find(other, shop).caught


def test_a_self_test_asks_cells_and_audits_with_trainings_of_the_same_seed(shop, monkeypatch):
    asked = []

    def finder(how):
        def find(control, workshop, seed):
            asked.append((how, control.name, workshop.train_seed, seed))
            return self_test.Found((), ("ok",), True)

        return lambda *asked: find

    monkeypatch.setattr(self_test, "in_cells", finder("cell"))
    monkeypatch.setattr(self_test, "by_audit", finder("audit"))
    some = [BY_NAME["wrong-gradient"], BY_NAME["exception"]]
    rows = self_test.self_test([1, 4], chosen=chosen, store=shop.store, controls=some)
    expected = [("audit", "wrong-gradient"), ("cell", "exception")]
    assert asked == [(*one, seed, seed) for seed in (1, 4) for one in expected]
    assert [(row.control, row.seed) for row in rows] == [(name, seed) for _, name, _, seed in asked]


@pytest.mark.parametrize(("caught", "code"), [(True, 0), (False, 1)])
def test_the_command_exits_with_1_where_one_row_is_wrong(monkeypatch, caught, code):
    rows = [
        Row((), ("ok",), True, "none", "nothing invalid", 3),
        Row((), ("ok",), caught, "noise", "a flag", 3),
    ]
    monkeypatch.setattr(self_test, "self_test", lambda seeds, **more: rows)
    done = CliRunner().invoke(main, ["audit", "--self-test", "--seed", "3", "--json", "--device", "cpu"])
    assert done.exit_code == code
    assert [row["caught"] for row in json.loads(done.stdout)] == [True, caught]
    done = CliRunner().invoke(main, ["audit", "--self-test", "--seed", "3", "--device", "cpu"])
    assert done.exit_code == code and f"{1 + caught} of 2 as meant" in done.stderr


def test_the_command_hands_on_what_it_was_given(monkeypatch):
    asked = []

    def planned(seeds, *, dataset, **more):
        asked.append((list(seeds), dataset))
        return [Row((), ("ok",), True, "none", "nothing invalid", 0)]

    monkeypatch.setattr(self_test, "self_test", planned)
    for more in ([], ["--seed", "5", "--seed", "0", "--dataset", "mnist"]):
        assert CliRunner().invoke(main, ["audit", "--self-test", *more]).exit_code == 0
    assert asked == [([0, 1, 2], "control-digits"), ([5, 0], "mnist")]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["magnet"], "DEFENSE"),
        (["--strict"], "--strict"),
        (["--eps", "0.3"], "--eps"),  # the default, said aloud
        (["--check", "state"], "--check"),
        (["--classifier", "a"], "--classifier"),
        (["--train-seed", "1", "none", "--dry-run"], "DEFENSE, --train-seed, --dry-run"),
        (["--seed", "1", "--seed", "1"], "given twice"),
    ],
)
def test_a_self_test_refuses_what_it_has_no_use_for(monkeypatch, more, says):
    monkeypatch.setattr(self_test, "report", lambda *a, **k: pytest.fail("it was run"))
    done = CliRunner().invoke(main, ["audit", "--self-test", *more])
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    (line,) = done.stderr.splitlines()
    assert says in line


# ---- the controls themselves


@pytest.mark.parametrize("control", FAULTS, ids=by_name)
def test_a_planted_fault_is_caught(shop, control):
    found = find(control, shop)
    assert found.caught, found


@pytest.mark.parametrize("control", LIGHT, ids=by_name)
def test_an_honest_system_is_accused_of_nothing_invalid(shop, control):
    found = find(control, shop)
    assert found.caught, found


def test_what_rejects_everything_is_not_robust(shop):
    (result,) = self_test.cells(BY_NAME["reject-all"], shop, 0, "control-digits")
    assert result.accuracy("robust").value == 0 and result.accuracy("clean").value == 0


@pytest.mark.figures
def test_all_controls_go_as_meant_over_three_seeds(tmp_path):
    rows = self_test.self_test(chosen=chosen, store=Store(tmp_path))
    assert len(rows) == 3 * len(CONTROLS)
    assert [row for row in rows if not row.caught] == []


def test_the_stored_table_is_of_these_controls_over_three_seeds():
    from pathlib import Path

    rows = json.loads((Path(__file__).parents[1] / "docs" / "self_test.json").read_text(encoding="utf-8"))
    assert sorted((r["control"], r["meant"], r["seed"]) for r in rows) == sorted(
        (c.name, c.meant, seed) for c in CONTROLS for seed in (0, 1, 2)
    )
    assert all(r["caught"] for r in rows)

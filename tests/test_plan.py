"""A matrix as a graph: shared steps once and in order, results written as they come, only what is missing run."""

from __future__ import annotations

import io
import json
from collections import Counter

import pytest
from planted_plugins import cell, installed, planned, workshop  # noqa: F401
from rich.console import Console

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import slug
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.engine.execute import execute, finished
from robustbench_gan.engine.live import say_derived
from robustbench_gan.engine.plan import result_path, steps_of
from robustbench_gan.flags import derive, identity
from robustbench_gan.nouns.spec import Chain
from robustbench_gan.results.places import short
from robustbench_gan.results.stored import read_result, write_text

ASKED = {
    "classifiers": ["quick", "fixed"],
    "defenses": ["none", "noisy"],
    "attacks": ["noise", "fgsm", "pgd:steps=2"],
    "threats": ["black-box:model=quick,rounds=2", "white-box", "seed-known"],
    "eps": [0.05, 0.1],
}


def run(cells, shop, out, settings=None, on_step=lambda step: None, **told):
    """Execute cells; the fingerprints of those that were computed, and all results."""
    fresh = []

    def on_result(item, result, stored):
        if not stored:
            fresh.append(item.cell.fingerprint)

    return fresh, execute(
        cells,
        shop,
        settings or Settings(),
        out,
        run_cell=evaluate_cell,
        on_step=on_step,
        on_result=on_result,
        **told,
    )


def test_every_shared_step_stands_once_and_before_what_needs_it(shop):
    cells = planned(shop, **ASKED)
    steps = steps_of(cells)
    keys = [step.key for step in steps]
    assert len(keys) == len(set(keys))
    assert all(need in keys[:at] for at, step in enumerate(steps) for need in step.needs)
    kinds = Counter(step.kind for step in steps)
    assert kinds == {"classifier": 2, "defense": 4, "substitute": 4, "cell": sum(not c.reason for c in cells)}


def test_noise_needs_no_substitute_and_what_cannot_be_needs_nothing(shop):
    threat = "black-box:model=quick,rounds=2"
    assert [s.kind for s in steps_of(planned(shop, attacks="noise", threats=threat))] == [
        "classifier",
        "defense",
        "cell",
    ]
    assert "substitute" in [s.kind for s in steps_of(planned(shop, attacks="fgsm", threats=threat))]
    assert steps_of(planned(shop, threats="gray-box")) == []


def test_one_substitute_serves_every_attack_and_budget_but_not_another_protocol(shop):
    def substitutes(threats):
        steps = steps_of(planned(shop, attacks=["fgsm", "bim"], threats=threats, eps=[0.1, 0.2]))
        return sum(step.kind == "substitute" for step in steps)

    assert substitutes(["black-box:model=quick,rounds=2"]) == 1
    assert substitutes(["black-box:model=quick,rounds=2", "black-box:model=quick,rounds=3"]) == 2


def test_a_cell_asked_for_twice_is_one_cell(shop):
    assert len(planned(shop, attacks=["pgd:steps=40", "pgd"])) == 1
    assert len(planned(shop, attacks=["pgd:steps=40", "pgd:steps=41"])) == 2


def test_results_come_in_the_order_planned_and_stand_on_disk(shop, tmp_path):
    cells = planned(shop, attacks=["fgsm", "noise"], threats=["white-box", "gray-box"])
    fresh, results = run(cells, shop, tmp_path / "out")
    assert [r.fingerprint for r in results] == [c.cell.fingerprint for c in cells]
    assert {r.status for r in results} == {"ok", "not applicable"}
    for item, result in zip(cells, results, strict=True):
        assert read_result(result_path(tmp_path / "out", item)) == result
    assert sorted(fresh) == sorted(c.cell.fingerprint for c in cells)


def test_a_second_run_computes_nothing_and_gives_the_same(shop, tmp_path):
    cells = planned(shop, attacks=["fgsm", "noise"], threats=["white-box", "gray-box"])
    _, first = run(cells, shop, tmp_path / "out")
    other = workshop(tmp_path / "never used")
    fresh, second = run(cells, other, tmp_path / "out")
    assert fresh == [] and second == first
    assert not (tmp_path / "never used").exists()


@pytest.fixture
def other_checks(monkeypatch):
    """From the call on, checks that take any answer for probabilities."""

    def change():
        monkeypatch.setattr(derive.at, "PROBABILITY_SLACK", 2.0)
        monkeypatch.setattr(identity, "files_digest", lambda paths: "0123456789abcdef")
        identity.checks_digest.cache_clear()

    yield change
    monkeypatch.undo()
    identity.checks_digest.cache_clear()


def test_other_checks_derive_flags_anew_and_run_no_cell(shop, tmp_path, other_checks):
    cells = planned(shop, attacks=["fgsm", "noise"], threats=["white-box", "gray-box"])
    _, first = run(cells, shop, tmp_path)
    assert all((r.evidence is not None) == bool(r.checks) == (r.outcomes is not None) for r in first)
    bare = first[0].model_copy(update={"evidence": None, "checks": ""})  # as written before evidence was kept
    result_path(tmp_path, cells[0]).write_text(write_text(bare))
    other_checks()
    told = []
    fresh, second = run(cells, shop, tmp_path, on_derived=lambda *both: told.append(both))
    assert fresh == [] and second[0] == bare
    changed = [(a, b) for a, b in zip(first[1:], second[1:], strict=True) if a != b]
    assert told == changed and [b.cell.attack for _, b in told] == [cells[1].cell.attack]
    for before, now in told:
        assert (before.status, now.status, now.reason) == ("ok", "ok", "")  # noise climbs no gradient
        assert [f.id for f in now.flags] == ["probabilities-as-logits"] and now.checks == "0123456789abcdef"
        assert (now.outcomes, now.evidence, now.cell) == (before.outcomes, before.evidence, before.cell)
    assert read_result(result_path(tmp_path, cells[1])) == second[1]
    assert run(cells, shop, tmp_path, on_derived=lambda *both: told.append(both)) == ([], second)
    assert len(told) == 1
    console = Console(file=io.StringIO(), width=400)
    say_derived(told, [bare, second[1]], console)
    said = console.file.getvalue()
    assert "flags derived anew: 1 earlier results" in said and "flags left as they were: 1 earlier" in said


def test_other_checks_may_make_a_result_suspect(shop, tmp_path, other_checks):
    cells = planned(shop, attacks="fgsm")
    _, (before,) = run(cells, shop, tmp_path)
    other_checks()
    fresh, (now,) = run(cells, shop, tmp_path)
    assert (fresh, before.status, now.status, now.reason) == ([], "ok", "suspect", "probabilities-as-logits")


def test_what_failed_is_tried_again_and_the_rest_is_not(shop, tmp_path):
    cells = planned(shop, attacks=["fgsm", "crashes", "noise"])
    fresh, results = run(cells, shop, tmp_path / "out")
    assert [r.status for r in results] == ["ok", "failed", "ok"] and len(fresh) == 3
    fresh, results = run(cells, shop, tmp_path / "out")
    assert fresh == [cells[1].cell.fingerprint] and results[1].status == "failed"


def test_a_suspect_result_is_an_answer_and_not_tried_again(shop, tmp_path):
    cells = planned(shop, attacks="same")
    assert len(run(cells, shop, tmp_path / "out")[0]) == 1
    assert run(cells, shop, tmp_path / "out")[0] == []


def test_what_was_too_long_is_run_when_the_limit_allows_it(shop, tmp_path):
    cells, out = planned(shop), tmp_path / "out"
    tight, loose = Settings(max_cell_minutes=1e-9), Settings(max_cell_minutes=60)
    fresh, results = run(cells, shop, out, tight)
    assert len(fresh) == 1 and results[0].status == "not run"
    assert len(run(cells, shop, out, tight)[0]) == 1  # estimated anew: it may have been a busy machine
    fresh, results = run(cells, shop, out, loose)
    assert len(fresh) == 1 and results[0].status == "ok"
    assert run(cells, shop, out, tight)[0] == []  # once measured, no limit takes it back


def test_a_newer_answer_replaces_an_older_one_to_the_same_question(shop, tmp_path):
    (item,) = planned(shop)
    run([item], shop, tmp_path)
    path = result_path(tmp_path, item)
    changed = item.cell.model_copy(update={"identity": {**item.cell.identity, "engine": "0" * 16}})
    newer = type(item)(changed, item.threat, item.reason)
    assert result_path(tmp_path, newer) == path and finished(tmp_path, newer) is None
    run([newer], shop, tmp_path)
    assert read_result(path).fingerprint == changed.fingerprint
    assert len(list((tmp_path / "results").rglob("*.json"))) == 1


def test_a_minimal_norm_attack_is_run_once_for_all_budgets_and_again_for_none(shop, tmp_path):
    cells = planned(shop, attacks="deepfool", threats="white-box", eps=[0.1, 0.2])
    assert [(c.cell.eps, c.budgets) for c in cells] == [(float("inf"), (0.1, 0.2))]
    _, (first,) = run(cells, shop, tmp_path)
    assert first.budgets == [0.1, 0.2] and first.status == "ok"
    more = planned(shop, attacks="deepfool", threats="white-box", eps=[0.05])
    fresh, (second,) = run(more, shop, tmp_path)
    assert fresh == [] and second.budgets == [0.05, 0.1, 0.2] and second.outcomes == first.outcomes
    assert read_result(result_path(tmp_path, more[0])) == second


def test_every_question_has_its_own_file(shop, tmp_path):
    cells = planned(shop, **ASKED)
    assert len({result_path(tmp_path, c) for c in cells}) == len(cells)
    assert all(result_path(tmp_path, c).is_relative_to(tmp_path / "results") for c in cells)


def test_names_make_no_path_but_their_own(shop, tmp_path):
    (item,) = planned(shop)
    odd = item.cell.model_copy(update={"classifier": "../../etc/passwd.py:make", "attack": "a" * 200})
    path = result_path(tmp_path, type(item)(odd, item.threat))
    assert ".." not in path.parts and path.resolve().is_relative_to(tmp_path)


@pytest.mark.parametrize("text", ["", "{", '{"schema_version": 3}', '{"schema_version": 2}', "[]"])
def test_a_file_that_is_no_record_stops_the_run_and_is_left_alone(shop, tmp_path, text):
    (item,) = planned(shop)
    path = result_path(tmp_path, item)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UsageError, match=path.name):
        run([item], shop, tmp_path)
    assert path.read_text() == text


def test_an_edited_record_is_refused(shop, tmp_path):
    (item,) = planned(shop)
    run([item], shop, tmp_path)
    path = result_path(tmp_path, item)
    record = json.loads(path.read_text())
    record["cell"]["eps"] = 0.05
    path.write_text(json.dumps(record))
    with pytest.raises(UsageError, match="the record was edited"):
        finished(tmp_path, item)


def test_a_step_that_fails_fails_every_cell_on_it_once_and_no_other(shop, tmp_path, monkeypatch):
    import planted_defenses

    fits = []

    def fit(self, data, seed, store):
        fits.append(seed)
        raise ArithmeticError("planted: no convergence")

    monkeypatch.setattr(planted_defenses.FailsToFit, "fit", fit)
    cells = planned(shop, defenses=["failstofit", "none"], attacks=["noise", "fgsm"])
    _, results = run(cells, shop, tmp_path)
    assert [r.status for r in results] == ["failed", "failed", "ok", "ok"]
    assert len(fits) == 1


def test_steps_are_told_of_before_they_start(shop, tmp_path):
    told = []
    run(
        planned(shop, classifiers="quick"),
        shop,
        tmp_path,
        on_step=lambda step: told.append((step.kind, len(list(shop.store)))),
    )
    assert told == [("classifier", 0), ("defense", 1), ("cell", 1)]


def test_an_interruption_keeps_what_is_finished(shop, tmp_path):
    cells = planned(shop, attacks=["noise", "interrupted", "fgsm"])
    with pytest.raises(KeyboardInterrupt):
        run(cells, shop, tmp_path)
    assert [finished(tmp_path, c) is not None for c in cells] == [True, False, False]


def test_labels_leave_out_parameters():
    assert short(Chain.of("defense-gan:width=2+none:x=1")) == "defense-gan+none"
    assert slug("a b/c") == "a-b-c"


def test_single_cells_and_executed_ones_agree(shop, tmp_path):
    asked = {"attacks": "pgd:steps=2", "defenses": "noisy", "judge_seeds": 2}
    _, (result,) = run(planned(shop, **asked), shop, tmp_path)
    assert result.outcomes == cell(workshop(tmp_path / "b"), **asked).outcomes

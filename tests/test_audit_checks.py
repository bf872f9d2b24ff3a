"""Every check of an audit raises its flag on the fault planted for it, and not on honest systems."""

from __future__ import annotations

import pytest
import torch
from planted_audit import installed_audit  # noqa: F401
from planted_plugins import installed, workshop  # noqa: F401

from robustbench_gan.audit import dynamic, finite_differences, label_leaking
from robustbench_gan.audit.catalogue import CHECKS, chosen
from robustbench_gan.audit.record import Asked, Audit
from robustbench_gan.audit.run import audit
from robustbench_gan.audit.system import System
from robustbench_gan.base.errors import UsageError
from robustbench_gan.flags import CATALOGUE

SMALL = {"dataset": "grey", "classifier": "fixed", "eps": 0.1, "samples": 40, "steps": 20, "eot": 1}


def audited(root, *checks, limit=None, **asked) -> Audit:
    """The audit of a system by some checks, all without any."""
    system = System(Asked(**{"defense": "none", **SMALL, **asked}), workshop(root))
    return audit(system, chosen(checks), root / "out", max_check_minutes=limit, on_work=lambda what: None)


def flags(found: Audit) -> dict[str, str]:
    return {f.id: f.severity for row in found.rows for f in row.flags}


FAULTS = [
    ("probabilities", {"classifier": "audit-softmaxed"}, {"probabilities-as-logits": "invalid"}),
    ("dropout", {"classifier": "audit-dropped"}, {"always-on-dropout": "invalid"}),
    ("randomness", {"defense": "secretlyrandom"}, {"undeclared-randomness": "invalid"}),
    ("randomness", {"defense": "audit-hiddennoise"}, {"undeclared-randomness": "invalid"}),
    ("state", {"defense": "audit-remembers"}, {"stateful-defense": "invalid"}),
    ("batch", {"defense": "audit-coupled"}, {"batch-dependent": "invalid"}),
    ("dynamic", {"defense": "audit-descends"}, {"inference-time-optimisation": "note"}),
    (
        "finite-differences",
        {"defense": "audit-masked", "dataset": "grey:side=16"},
        {"masked-gradient": "invalid"},
    ),
    ("finite-differences", {"defense": "audit-inverted"}, {"masked-gradient": "invalid"}),
    ("finite-differences", {"defense": "zerogradient"}, {"masked-gradient": "invalid"}),
    ("attack", {"defense": "audit-killed"}, {"zero-gradient": "invalid"}),
    ("convergence", {"classifier": "audit-band", "eps": 0.02}, {"not-converged": "warning"}),
    ("restarts", {"classifier": "audit-basins", "eps": 0.02}, {"restarts-matter": "warning"}),
    ("eot", {"defense": "audit-noisygradient"}, {"eot-not-converged": "warning"}),
    ("fixed-seed", {"defense": "audit-noisygradient", "eot": 4}, {"seed-does-not-help": "warning"}),
    (
        "random-search",
        {"defense": "audit-inverted", "eps": 0.3},
        {"random-search-beats-gradients": "invalid"},
    ),
    ("eps-grid", {"classifier": "audit-band", "eps": 0.02}, {"accuracy-rises-with-eps": "invalid"}),
    ("half", {"defense": "audit-inverted"}, {"robust-at-half": "invalid"}),
    ("unbounded", {"defense": "audit-inverted"}, {"unbounded-attack-fails": "warning"}),
    ("distortion", {"defense": "audit-inverted", "dataset": "mnist"}, {"implausible-distortion": "invalid"}),
    ("quantisation", {"classifier": "audit-band", "eps": 0.02}, {"quantisation-sensitive": "warning"}),
]


@pytest.mark.parametrize(("check", "fault", "raised"), FAULTS, ids=lambda v: v if isinstance(v, str) else "")
def test_a_check_sees_the_fault_that_is_meant_for_it(tmp_path, check, fault, raised):
    found = audited(tmp_path, check, **fault)
    assert flags(found) == raised, found.rows
    assert found.rows[0].verdict == "flagged"


@pytest.mark.parametrize(
    ("defense", "unrolls", "figure"),
    [
        ("none", False, "neither declared to iterate nor seen to differentiate"),
        ("none", True, "declared to iterate"),
        ("audit-descends", False, "seen to differentiate"),
        ("audit-descends", True, "declared to iterate and seen to differentiate"),
    ],
)
def test_what_dynamic_says_is_what_it_flags_for(tmp_path, monkeypatch, defense, unrolls, figure):
    place = workshop(tmp_path)
    system = System(Asked(**{**SMALL, "defense": defense}), place)
    monkeypatch.setattr(type(system.defense), "unrolls", unrolls)
    found = dynamic.look(system)
    assert found.figure == figure
    assert [f.evidence for f in found.flags] == (
        [] if figure.startswith("neither") else [{"declared": str(unrolls).lower()}]
    )


def test_label_leaking_sees_a_network_that_reads_labels_off_examples(tmp_path, monkeypatch):
    monkeypatch.setattr(label_leaking, "TRAINS", "audit-inverted")
    values = {"attack": "fgsm", "norm": "linf", "eps": 0.2}
    resolve = label_leaking.registry.resolve

    def with_training(group, spec):
        target, found = resolve(group, spec)
        return target, ({**values, **found} if spec.name == "audit-inverted" else found)

    monkeypatch.setattr(label_leaking.registry, "resolve", with_training)
    asked = {"defense": "audit-inverted", "classifier": "bent"}
    system = System(Asked(**{**SMALL, **asked}), workshop(tmp_path))
    wanted = label_leaking.training_attack(system)
    monkeypatch.setattr(label_leaking.registry, "resolve", resolve)
    monkeypatch.setattr(label_leaking, "training_attack", lambda system: wanted)
    assert flags(audited(tmp_path, "label-leaking", **asked)) == {"label-leaking": "warning"}


HONEST = [
    {"classifier": "bent"},
    {"classifier": "quick"},
    {"defense": "noisy", "eot": 2},
    {"defense": "bit-depth:bits=3"},
    {"defense": "adversarial-training:attack=fgsm,eps=0.05,epochs=1,batch_size=20", "classifier": "bent"},
]


@pytest.mark.parametrize("system", HONEST, ids=lambda s: str(s))
def test_honest_systems_are_accused_of_nothing(tmp_path, system):
    found = audited(tmp_path, **{"eps": 0.05, **system})
    accused = flags(found)
    # noise leaves the range of pixels, and the audit says so
    noise = {"range-mismatch": "warning", "misconfigured-purifier": "warning"}  # it is as large as the images
    assert accused == (noise if system.get("defense") == "noisy" else {}), found.rows
    assert not found.failed and found.comparisons >= 8
    verdicts = {row.check: row.verdict for row in found.rows}
    random = system.get("defense") == "noisy"
    assert (verdicts["eot"], verdicts["fixed-seed"]) == (
        ("nothing found",) * 2 if random else ("not applicable",) * 2
    )
    assert verdicts["distortion"] == "not applicable"
    gives_full = "bit-depth" not in system.get("defense", "")
    assert verdicts["finite-differences"] == ("nothing found" if gives_full else "not applicable")
    trains = "adversarial" in system.get("defense", "")
    assert verdicts["label-leaking"] == ("nothing found" if trains else "not applicable")


def test_a_linear_model_needs_little_l2_and_nothing_is_implausible(tmp_path):
    found = audited(tmp_path, "distortion", dataset="mnist")
    assert (found.rows[0].verdict, found.rows[0].reason) == ("nothing found", "")


def test_every_flag_that_audits_are_said_to_compute_is_some_checks(tmp_path):
    by_audit = {k.id for k in CATALOGUE.values() if k.where == "audit"}
    of_checks = {name for check in CHECKS.values() for name in check.flags}
    assert by_audit <= of_checks <= set(CATALOGUE)
    assert {check for check, _, _ in FAULTS} | {"label-leaking"} == set(CHECKS)


def test_the_gradient_of_a_linear_model_agrees_with_finite_differences_exactly(tmp_path):
    system = System(Asked(defense="none", **SMALL), workshop(tmp_path))
    x, y = system.images(20)
    found = finite_differences.correlations(system, x, y)
    torch.testing.assert_close(found, torch.ones(20, dtype=torch.float64), atol=1e-4, rtol=0)


def test_a_defense_that_breaks_has_failed_and_not_passed(tmp_path):
    found = audited(tmp_path, defense="audit-breaks")
    for row in found.rows:
        assert row.verdict in ("failed", "not applicable") or row.check == "dropout", row
        assert row.verdict != "failed" or "planted: breaks" in row.reason
    assert len(found.failed) >= 10


@pytest.mark.parametrize("limit", [None, 10.0])
@pytest.mark.parametrize("check", ["state", "batch", "dropout", "dynamic"])
def test_a_check_without_cells_trains_what_it_looks_at(tmp_path, check, limit):
    asked = {
        "classifier": "quick",
        "defense": "adversarial-training:attack=fgsm,eps=0.05,epochs=1,batch_size=20",
    }
    (row,) = audited(tmp_path, check, limit=limit, **asked).rows
    assert row.verdict == "nothing found", row.reason


def test_a_detached_defense_fails_by_the_name_of_its_fault(tmp_path):
    found = audited(tmp_path, "attack", "finite-differences", defense="detached")
    assert [row.verdict for row in found.rows] == ["failed", "failed"]
    assert flags(found) == {"disconnected-gradient": "invalid"}


def test_a_check_above_the_limit_is_not_run_and_says_so(tmp_path):
    found = audited(tmp_path, limit=1e-9)
    verdicts = {row.check: row.verdict for row in found.rows}
    assert set(verdicts.values()) <= {"not run", "not applicable", "nothing found"}
    assert [c for c, v in verdicts.items() if v == "nothing found"] == [
        "dropout"
    ]  # no estimate: it costs nothing
    assert all("above the limit" in row.reason for row in found.rows if row.verdict == "not run")


def test_what_is_finished_is_not_computed_again(tmp_path, monkeypatch):
    first = audited(tmp_path, classifier="bent")
    monkeypatch.setattr("robustbench_gan.cell.evaluate._attack_and_judge", None)
    monkeypatch.setattr("robustbench_gan.audit.random_search.worst_points", None)
    monkeypatch.setattr("robustbench_gan.audit.quantisation.craft", None)
    again = audited(tmp_path, classifier="bent", limit=1e-9)  # and a limit is no reason against it

    def timeless(found):
        return [row.model_copy(update={"seconds": 0.0}) for row in found.rows]

    assert timeless(again) == timeless(first)


@pytest.mark.parametrize("eps", [0.0, float("inf")])
def test_a_radius_without_a_ball_to_search_is_refused(tmp_path, eps):
    with pytest.raises(UsageError, match="finite radius above 0"):
        audited(tmp_path, eps=eps)


def test_a_norm_that_pgd_is_not_defined_in_leaves_what_needs_no_attack(tmp_path):
    found = audited(tmp_path, "state", "convergence", "half", norm="l0", eps=3)
    assert [row.verdict for row in found.rows] == ["nothing found", "not applicable", "nothing found"]

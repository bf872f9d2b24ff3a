"""An audit as a whole: the correction for asking much, its record, its words, and the command."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from planted_audit import installed_audit  # noqa: F401
from planted_plugins import installed  # noqa: F401
from pydantic import ValidationError

from robustbench_gan.audit.catalogue import CHECKS
from robustbench_gan.audit.compare import above, apart, corrected, share_above
from robustbench_gan.audit.printing import closing, markdown
from robustbench_gan.audit.record import NO_PROOF, Asked, Audit, Finding, Row, read_audit, write_text
from robustbench_gan.base.errors import UsageError
from robustbench_gan.cli import main
from robustbench_gan.flags import flag
from robustbench_gan.flags import thresholds as at

AUDITS, COMPARISONS, IMAGES = 300, 40, 400


def stands(*counts):
    """Outcomes of images: so many that stand, so many that fell, in turn."""
    return np.concatenate([np.full(n, 1.0 - i % 2) for i, n in enumerate(counts)])


def raised(*tests):
    return [f.id for f in corrected({"check": Finding(tests=list(tests))})["check"][0]]


# ---- the correction


def test_of_audits_with_nothing_to_find_no_more_than_the_nominal_share_flags_anything():
    """40 comparisons each of two attacks that are equally strong; without a correction most audits would flag."""
    draw, flagged, uncorrected = np.random.default_rng(7), 0, 0
    for _ in range(AUDITS):
        findings = {}
        for n in range(COMPARISONS):
            one, other = (draw.random((2, IMAGES)) < 0.5).astype(float)
            test = above("not-converged", "warning", ("a", one), ("b", other), least=0.0)
            findings[str(n)] = Finding(tests=[test])
        uncorrected += any(f.tests[0].p <= at.LEVEL for f in findings.values())
        flagged += any(flags for flags, _ in corrected(findings).values())
    # of 300 audits 15 are expected to err where the tests are exact; 27 or more do in 1 of 400 such trials
    assert flagged <= 26
    assert flagged >= 3  # nor is the correction so strict that nothing can be found
    assert uncorrected > 0.7 * AUDITS


def test_a_real_difference_is_found_among_many_that_are_none():
    draw = np.random.default_rng(8)
    findings = {}
    for n in range(COMPARISONS):
        one, other = (draw.random((2, 100)) < 0.5).astype(float)
        findings[str(n)] = Finding(tests=[above("not-converged", "warning", ("a", one), ("b", other))])
    found = above("restarts-matter", "warning", ("1 start", stands(80, 20)), ("10 starts", stands(50, 50)))
    findings["restarts"] = Finding(tests=[found])
    verdicts = corrected(findings)
    assert [f.id for flags, _ in verdicts.values() for f in flags] == ["restarts-matter"]
    (only,) = verdicts["restarts"][0]
    assert only.evidence["comparisons"] == COMPARISONS + 1
    assert verdicts["restarts"][1] == pytest.approx(41 * 2.0**-30)


def test_a_difference_within_the_tolerance_is_never_flagged_however_sure():
    n = 100_000
    sure = above("not-converged", "warning", ("a", stands(n)), ("b", stands(n - 900, 900)))
    assert sure.p < 1e-100 and raised(sure) == []
    larger = above("not-converged", "warning", ("a", stands(n)), ("b", stands(n - 1100, 1100)))
    assert raised(larger) == ["not-converged"]
    # two standard errors of 0.5 over 1,000 images are 0.0316
    inside = above("not-converged", "warning", ("a", stands(530, 470)), ("b", stands(500, 500)))
    assert inside.least == pytest.approx(2 * (0.25 / 1000) ** 0.5) and raised(inside) == []


def test_the_sign_tests_are_exact_and_look_the_right_way():
    a, b = stands(10), stands(2, 8)
    assert above("not-converged", "warning", ("a", a), ("b", b)).p == 2.0**-8
    assert above("not-converged", "warning", ("b", b), ("a", a)).p == 1
    assert apart("quantisation-sensitive", "warning", ("b", b), ("a", a)).p == 2.0**-7
    assert apart("quantisation-sensitive", "warning", ("a", a), ("a", a)).p == 1
    assert share_above("unbounded-attack-fails", "warning", 1, 1, 0.01).p == pytest.approx(0.01)
    assert raised(share_above("unbounded-attack-fails", "warning", 0, 0, 0.01)) == []


def test_one_flag_is_raised_once_and_by_its_clearest_comparison():
    clear = above("accuracy-rises-with-eps", "invalid", ("eps 1", stands(60)), ("eps 0", stands(0, 60)))
    less = above("accuracy-rises-with-eps", "invalid", ("eps 2", stands(60)), ("eps 1", stands(40, 20)))
    (only,), p = corrected({"eps-grid": Finding(tests=[less, clear])})["eps-grid"]
    assert only.evidence["of"] == "eps 1" and p == 2 * 2.0**-60


# ---- the record


def audit_of(*rows):
    return Audit(asked=Asked(defense="none"), comparisons=3, rows=list(rows))


ROWS = [
    Row(check="state", pitfall="P10", question="?", verdict="nothing found", figure="0 labels change", n=9),
    Row(check="half", pitfall="P14", question="?", verdict="flagged", p=0.01,
        flags=[flag("robust-at-half", "invalid", accuracy=0.9, chance=0.1)]),
    Row(check="eot", pitfall="P7", question="?", verdict="not applicable", reason="not random"),
    Row(check="batch", pitfall="P9", question="?", verdict="failed", reason="ValueError: a|b\nc"),
]  # fmt: skip


def test_a_record_comes_back_as_it_was(tmp_path):
    found = audit_of(*ROWS)
    (tmp_path / "audit.json").write_text(write_text(found))
    assert read_audit(tmp_path / "audit.json") == found
    assert (found.invalid, found.failed) == (["robust-at-half"], ["batch"])


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "nothing found", "flags": [flag("no-eot", draws=1)]},
        {"verdict": "flagged"},
        {"verdict": "failed"},
        {"verdict": "robust"},
    ],
    ids=["flag in silence", "flag without one", "failure without a reason", "no such verdict"],
)
def test_a_row_that_contradicts_itself_is_no_record(change):
    with pytest.raises(ValidationError):
        Row(check="a", pitfall="P1", question="?", **change)


@pytest.mark.parametrize("text", ["{", "{}", None])
def test_a_damaged_record_is_refused_in_a_line(tmp_path, text):
    path = tmp_path / "audit.json"
    if text is None:
        text = write_text(audit_of(*ROWS)).replace(NO_PROOF, "All is well.")
    path.write_text(text)
    with pytest.raises(UsageError, match=r"audit\.json is not a valid audit: .*Delete it"):
        read_audit(path)


def test_the_page_says_that_passing_is_no_proof_and_never_that_a_system_is_robust():
    passed = audit_of(ROWS[0], ROWS[2])
    page = markdown(passed)
    assert page.rstrip().endswith(NO_PROOF) and closing(passed)[-1] == NO_PROOF
    assert "robust" not in page.lower()
    assert "robust" not in " ".join(c.question + c.cost for c in CHECKS.values()).lower()
    table = [line for line in markdown(audit_of(*ROWS)).splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(ROWS) and "failed: ValueError: a\\|b c |" in table[-1]


def test_the_document_lists_every_check_with_its_question_and_cost():
    text = (Path(__file__).parents[1] / "docs" / "audit.md").read_text(encoding="utf-8")
    rows = [f"| `{c.name}` | {c.pitfall} | {c.question} | {c.cost} |" for c in CHECKS.values()]
    table = text.partition("<!-- checks: begin -->")[2].partition("<!-- checks: end -->")[0]
    assert [line for line in table.splitlines() if line.startswith("| `")] == rows


# ---- the command

SMALL = ["--dataset", "grey", "--classifier", "fixed", "--eps", "0.1", "--samples", "20", "--steps", "20",
         "--device", "cpu"]  # fmt: skip


@pytest.fixture
def rbg(tmp_path, monkeypatch):
    """Call `rbg audit` in an empty directory with an empty cache."""
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return lambda *arguments: CliRunner().invoke(main, ["audit", *arguments, *SMALL])


def test_the_command_ends_with_the_table_and_the_sentence(rbg, tmp_path):
    result = rbg("none", "--check", "state", "--check", "convergence", "--check", "eot")
    assert result.exit_code == 0, result.output
    assert result.stdout.rstrip().endswith(NO_PROOF)
    assert result.stdout.count("nothing found") == 2 and "not applicable: the defense is not" in result.stdout
    out = tmp_path / "here" / "rbg-audit"
    record = read_audit(out / "audit.json")
    assert [row.check for row in record.rows] == ["state", "convergence", "eot"]
    assert (out / "audit.md").read_text() == markdown(record)
    assert len(list(out.glob("results/**/*.json"))) == 2 and len(list(out.glob("checks/*.json"))) == 1


def test_json_is_the_record_and_nothing_else(rbg):
    result = rbg("none", "--check", "batch", "--json")
    assert Audit.model_validate(json.loads(result.stdout)).rows[0].check == "batch"


@pytest.mark.parametrize(
    ("defense", "options", "code"),
    [
        ("audit-coupled", [], 0), ("audit-coupled", ["--strict"], 1), ("audit-descends", ["--strict"], 0), ("audit-breaks", [], 1),
    ],
)  # fmt: skip
def test_the_exit_code_says_what_was_raised_and_what_failed(rbg, defense, options, code):
    result = rbg(defense, "--check", "batch", "--check", "dynamic", *options)
    assert result.exit_code == code, result.output
    assert ("--strict: invalid flags were raised: batch-dependent" in result.stderr) == (
        defense == "audit-coupled" and code == 1
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonesuch"], ["nonesuch", "Known:"]),
        (["none", "--check", "restart"], ["unknown check 'restart'", "Did you mean 'restarts'?"]),
        (["none", "--eps", "0"], ["--eps 0", "above 0"]),
        (["none", "--norm", "l3"], ["l3", "linf"]),
        (["none", "--seed", "1", "--seed", "2"], ["--seed 1 --seed 2", "one seed"]),
        ([], ["give a DEFENSE", "--self-test"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(rbg, arguments, says):
    options = [*SMALL]
    for name in ("--eps", "--norm"):
        if name in arguments and name in options:
            at_option = options.index(name)
            del options[at_option : at_option + 2]
    result = CliRunner().invoke(main, ["audit", *arguments, *options])
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    (line,) = result.stderr.splitlines()
    assert all(part in line for part in says), line


def test_a_dry_run_trains_and_writes_nothing(rbg, tmp_path):
    result = rbg("none", "--dry-run")
    assert result.exit_code == 0 and f"of {len(CHECKS)} checks to run" in result.stdout
    rows = json.loads(rbg("none", "--dry-run", "--json").stdout)
    assert [row["check"] for row in rows] == list(CHECKS)
    assert [row["check"] for row in rows if row["not_applicable"]] == [
        "eot", "fixed-seed", "distortion", "label-leaking",
    ]  # fmt: skip
    assert not (tmp_path / "here" / "rbg-audit").exists() and not (tmp_path / "cache").exists()


def test_ctrl_c_is_130_and_the_same_command_goes_on(rbg, tmp_path, monkeypatch):
    from robustbench_gan.audit import quantisation

    def interrupted(run):
        signal.raise_signal(signal.SIGINT)

    checks = ["--check", "state", "--check", "convergence", "--check", "quantisation"]
    with monkeypatch.context() as during:
        during.setattr(quantisation, "craft", interrupted)
        assert rbg("none", *checks).exit_code == 130
    out = tmp_path / "here" / "rbg-audit"
    kept = {p: p.stat().st_mtime_ns for p in out.glob("*/**/*.json")}
    assert len(kept) == 3 and not (out / "audit.json").exists()
    assert rbg("none", *checks).exit_code == 0
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert read_audit(out / "audit.json").rows[-1].verdict == "nothing found"


def test_a_damaged_finding_is_named(rbg, tmp_path):
    assert rbg("none", "--check", "state").exit_code == 0
    (path,) = (tmp_path / "here" / "rbg-audit" / "checks").glob("state-*.json")
    path.write_text("{")
    result = rbg("none", "--check", "state")
    assert result.exit_code == 2 and f"{path.name} is no finding" in result.stderr

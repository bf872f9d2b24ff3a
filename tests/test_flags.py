"""The catalogue of red flags: whole, readable, and what `rbg explain` prints."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import robustbench_gan
from robustbench_gan.base.errors import UsageError
from robustbench_gan.cli import main
from robustbench_gan.flags import BY_CONSTRUCTION, CATALOGUE, flag, known

CORE = Path(robustbench_gan.__file__).parent
# A control stands for every pitfall, or a reason why none can.
PITFALLS = {f"P{n}" for n in range(1, 37)} | {"P1b", "P6b", "P12b"}


def explain(*arguments: str):
    return CliRunner().invoke(main, ["explain", *arguments])


def test_every_pitfall_has_a_flag_or_cannot_be():
    named = {k.pitfall for k in CATALOGUE.values()}
    impossible = {text.partition(",")[0] for text in BY_CONSTRUCTION}
    assert named | impossible == PITFALLS
    assert named & impossible == {"P30"}  # what is impossible is to leave it out; a high share is flagged


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=CATALOGUE.keys())
def test_every_flag_explains_itself_to_the_reader(entry):
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", entry.id)
    assert entry.where in ("cell", "run", "audit") and entry.severities
    order = ("invalid", "warning", "note")
    assert list(entry.severities) == sorted(entry.severities, key=order.index)
    for text in (entry.rule, entry.applies, entry.summary):
        assert text.endswith(".") and "\n" not in text
    assert len(entry.summary) <= 110
    assert (
        100 < len(entry.explanation) < 700
        and entry.explanation.endswith(".")
        and "  " not in entry.explanation
    )


def test_every_flag_that_code_raises_is_known_and_every_other_one_is_the_audit_s():
    names = (
        "flags/derive.py", "flags/refusals.py", "flags/across.py", "cell/craft.py", "cell/judge.py", "base/errors.py",
    )  # fmt: skip
    sources = [CORE / name for name in names]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    raised = {name for name in CATALOGUE if f'"{name}"' in text}
    assert raised == {k.id for k in CATALOGUE.values() if k.where != "audit"}
    called = set(re.findall(r'(?:\bflag|Question)\(\s*"([a-z-]+)"', text))
    assert called <= set(CATALOGUE)


def test_a_severity_that_a_flag_cannot_have_is_a_bug():
    assert flag("no-eot", draws=1).severity == "warning"
    with pytest.raises(AssertionError):
        flag("no-eot", "invalid")
    with pytest.raises(ValueError, match="unpack"):
        flag("zero-gradient")  # has two, so one must be named


def test_explain_lists_every_flag_with_its_severity_and_one_line():
    said = explain()
    assert said.exit_code == 0
    for entry in CATALOGUE.values():
        (line,) = [text for text in said.output.splitlines() if f" {entry.id} " in text]
        assert " or ".join(entry.severities) in line and entry.summary in line


@pytest.mark.parametrize("name", ["zero-gradient", "noise-beats-gradients", "restarts-matter"])
def test_explain_prints_the_paragraph(name):
    said, entry = explain(name), CATALOGUE[name]
    assert said.exit_code == 0
    flat = " ".join(said.output.split())
    assert entry.explanation in flat and entry.rule in flat and entry.pitfall in flat
    assert {"cell": "in each cell", "run": "across the cells of a run", "audit": "by audit"}[
        entry.where
    ] in flat


def test_explain_as_json():
    everything = json.loads(explain("--json").output)
    assert [entry["id"] for entry in everything] == list(CATALOGUE)
    one = json.loads(explain("no-eot", "--json").output)
    assert one == everything[list(CATALOGUE).index("no-eot")]
    assert one["computed"] == "computed in each cell" and one["severities"] == ["warning"]


def test_an_unknown_flag_is_bad_usage_that_names_the_near_ones():
    said = explain("zero-gradents")
    assert said.exit_code == 2 and "Did you mean 'zero-gradient'" in said.output
    with pytest.raises(UsageError, match="unknown flag 'x'"):
        known("x")


def test_explaining_needs_no_torch():
    code = "import sys; from robustbench_gan.cli import main; main(['explain'], standalone_mode=False); "
    code += "from robustbench_gan.flags import across; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0

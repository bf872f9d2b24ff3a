"""The command line: bad input is one line and exit code 2, before any work."""

from __future__ import annotations

import json
import os

import pytest
from called_cli import SMALL, rbg_in_an_empty_directory, refused  # noqa: F401 - fixtures
from planted import plant
from planted_plugins import installed  # noqa: F401

from robustbench_gan.leaderboard import load_results
from robustbench_gan.training.store import Store

# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--attack", "pdg"], ["unknown attack 'pdg'", "Did you mean 'pgd'?", "fgsm"]),
        (["--defense", "magnte"], ["unknown defense 'magnte'", "Did you mean 'magnet'?", "defense-gan"]),
        (["--classifier", "small_cnn"], ["unknown model 'small_cnn'", "Did you mean 'small-cnn'?", "lenet"]),
        (["--dataset", "mnits"], ["unknown dataset 'mnits'", "Did you mean 'mnist'?", "folder"]),
        (["--threat", "gray"], ["unknown threat model 'gray'", "Did you mean 'gray-box'?", "seed-known"]),
        (["--preset", "quik"], ["unknown preset 'quik'", "Did you mean 'quick'?", "standard"]),
        (["--goal", "untarget"], ["unknown goal 'untarget'", "Did you mean 'untargeted'?", "least-likely"]),
        (["--norm", "linfty"], ["unknown norm 'linfty'", "Did you mean 'linf'?", "l2"]),
        (["--attack", "pgd:step_size=1"], ["unknown parameter of attack 'pgd': 'step_size'", "restarts"]),
        (["--attack", "pgd:steps=1.5"], ["pgd:steps=1.5 is not a int", "40"]),
        (["--attack", "pgd:steps=3,steps=4"], ["'steps' is given twice"]),
        (["--attack", "pgd("], ["cannot read 'pgd('"]),
        (["--attack", ""], ["cannot read ''"]),
        (["--defense", "magnet:width=0"], ["magnet needs width >= 1"]),
        (["--defense", "adversarial-training:attack=nope"], ["unknown attack 'nope'"]),
        (["--attack", "broken"], ["'broken'", "planted 1.0", "planted_broken:attack", "ImportError"]),
        (["--eps", "-0.1"], ["eps=-0.1", "0 or more"]),
        (["--eps", "nan"], ["eps=nan"]),
        (["--eps", "8"], ["eps=8.0", "8/255"]),
        (["--eps", "big"], ["--eps", "eps=big", "0.03 or 8/255"]),
        (["--eps", "8/0"], ["eps=8/0 is no radius"]),
        (["--samples", "0"], ["samples=0", "200 images"]),
        (["--samples", "-3"], ["samples=-3"]),
        (["--samples", "201"], ["samples=201", "200 images"]),
        (["--samples", "ten"], ["--samples 'ten'", "whole number or 'all'"]),
        (["--judge-seeds", "0"], ["--judge-seeds"]),
        (["--eot", "0"], ["--eot"]),
        (["--batch-size", "0"], ["--batch-size"]),
        (["--max-cell-minutes", "0"], ["--max-cell-minutes"]),
        (["--gradient", "ful"], ["--gradient", "bpda"]),
        (["--device", "tpu"], ["--device"]),
        (["--attack", "pgd:steps=0"], ["steps >= 1"]),
        (["--bogus"], ["--bogus"]),
        (["--verbose"], ["--verbose", "--dry-run"]),
        (["quick"], ["for the preset of that name write --preset quick"]),
        (["nothing.toml"], ["nothing.toml", "there is no such file"]),
        (["/dev/zero"], ["cannot read /dev/zero", "device"]),
        (["--classifier", "dir/net.py"], ["add the function", "dir/net.py:factory"]),
        (["--classifier", "nothing.py:make", "--weights", __file__], ["nothing.py"]),
        (["--weights", "nothing.safetensors"], ["nothing.safetensors", "does not exist"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_bad_input_is_one_line_and_exit_code_2(rbg, arguments, says):
    options = list(SMALL)
    for name in {a for a in arguments if a.startswith("--")} & set(options):
        at = options.index(name)
        del options[at : at + 2]
    refused(rbg("evaluate", *options, *arguments, "--out", "out"), *says)


def test_several_thresholds_of_one_mistake_leave_finished_results_alone(rbg, tmp_path):
    assert rbg("evaluate", *SMALL, "--out", "out").exit_code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "here" / "out").rglob("*") if p.is_file()}
    refused(rbg("evaluate", *SMALL, "--attack", "pdg", "--out", "out"), "'pdg'")
    refused(rbg("evaluate", *SMALL, "--eps", "-1", "--out", "out"), "eps=-1")
    assert {p: p.read_bytes() for p in (tmp_path / "here" / "out").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("samples = \n", ["m.toml is not valid TOML", "line 1"]),
        ("samples = 3\nattakcs = []\n", ["unknown key in m.toml", "'attakcs'", "Did you mean 'attacks'?", "defenses"]),
        ("[[block]]\neps = 0.3\n", ["m.toml", "eps"]),
        ("block = [3]\n", ["m.toml", "block"]),
        ("[block]\nsamples = 3\n", ["m.toml", "block"]),
    ],
)  # fmt: skip
def test_a_bad_matrix_file_is_one_line(rbg, text, says):
    with open("m.toml", "w") as file:  # noqa: PTH123 - a name relative to the fixture's directory
        file.write(text)
    refused(rbg("evaluate", "m.toml", "--device", "cpu"), *says)
    refused(rbg("evaluate", "m.toml", "--goal", "random"), *says)


def test_a_matrix_and_a_preset_at_once_are_refused(rbg, tmp_path):
    (tmp_path / "here" / "m.toml").write_text("")
    refused(rbg("evaluate", "m.toml", "--preset", "quick"), "not both")


@pytest.mark.parametrize("place", ["out", "out/results"])
def test_results_that_cannot_be_written_are_known_before_any_work(rbg, tmp_path, place):
    blocked = tmp_path / "here" / place
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("a file in the way")
    refused(rbg("evaluate", *SMALL, "--out", "out"), "out")
    assert blocked.read_text() == "a file in the way" and not (tmp_path / "cache" / "artifacts").exists()


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\x00" * 64])
def test_a_damaged_artifact_is_named_and_nothing_else_is_lost(rbg, tmp_path, damage):
    assert rbg("evaluate", *SMALL, "--classifier", "quick", "--out", "first").exit_code == 0
    artifacts = list(Store(tmp_path / "cache" / "artifacts"))
    for path in artifacts:
        path.write_bytes(damage(path.read_bytes()))
    result = rbg("evaluate", *SMALL, "--classifier", "quick", "--out", "second")
    refused(result, "cannot read", "Delete the file")
    assert len(load_results(tmp_path / "here" / "first")) == 2
    listed = rbg("cache", "list", "--json")
    assert listed.exit_code == 0 and "unreadable" in json.loads(listed.stdout)[0]["info"]


@pytest.mark.parametrize(
    ("text", "says"),
    [('{"schema_version": 99}', "schema version 99"), ('{"schema_version": 1, "ce', "is no JSON")],
)
def test_a_result_that_cannot_be_read_is_named_and_kept(rbg, tmp_path, text, says):
    assert rbg("evaluate", *SMALL, "--out", "out").exit_code == 0
    (path,) = (tmp_path / "here" / "out" / "results").rglob("*.json")
    path.write_text(text)
    result = rbg("evaluate", *SMALL, "--out", "out")
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    assert says in result.stderr and path.name in result.stderr.replace("\n", "")
    assert path.read_text() == text
    refused(rbg("show", path), says)
    refused(rbg("leaderboard", "build", "out"), says)


def test_an_attack_without_its_facts_is_refused_in_a_line(rbg):
    refused(rbg("evaluate", *SMALL, "--attack", "unregistered"), "unregistered", "@attack")


# ---- what is imported


def test_a_typo_in_the_last_name_is_found_before_the_first_training(rbg, tmp_path):
    for last, says in (("magnett", "'magnett'"), ("magnet:width=0", "width >= 1"), ("median+nois", "'nois'")):
        refused(rbg("train", "quick", last, "--dataset", "grey", "--classifier", "quick"), says)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_name_that_two_plugins_claim_harms_only_those_who_use_it(rbg, plugin_path):
    for name in ("one", "two"):
        points = f"[robustbench_gan.attacks]\nzap = rbg_{name}:zap\n"
        plant(plugin_path, name, points, {f"rbg_{name}.py": "zap = print"})
    assert rbg("evaluate", *SMALL, "--dry-run").exit_code == 0
    assert "Uninstall one" in rbg("list", "attacks", "--json").stdout
    refused(rbg("evaluate", *SMALL, "--attack", "zap", "--dry-run"), "two plugins register attack 'zap'")


@pytest.mark.parametrize(
    ("text", "says"),
    [("eps = " + "[" * 9000, "nested too deeply"), ("a." * 10**5 + "b = 1", "a line has more than"), ("#\n" * 10**6, "bytes")],
    ids=["deep", "dotted", "huge"],
)  # fmt: skip
def test_a_matrix_that_nobody_wrote_is_one_line_at_once(rbg, tmp_path, text, says):
    (tmp_path / "m.toml").write_text(text)
    refused(rbg("evaluate", tmp_path / "m.toml", "--dry-run"), says)
    os.mkfifo(tmp_path / "pipe.toml")
    refused(rbg("evaluate", tmp_path / "pipe.toml", "--dry-run"), "pipe.toml")


def test_a_tilde_in_an_option_is_the_home_directory(rbg, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m.toml").write_text('datasets = ["grey"]\nclassifiers = ["fixed"]\nsamples = 10\n')
    assert rbg("evaluate", "~/m.toml", "--dry-run").exit_code == 0
    refused(
        rbg("evaluate", "~nobody-here/m.toml", "--dry-run"), "~nobody-here/m.toml", "there is no such file"
    )

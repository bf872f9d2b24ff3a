"""The process of the command line: what it imports, sees of plugins, and keeps off standard output."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from called_cli import SMALL, rbg_in_an_empty_directory  # noqa: F401 - fixtures
from planted import plant
from planted_plugins import environment, installed  # noqa: F401

from robustbench_gan.cli import main


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["evaluate", "--help"],
        ["sweep", "--help"],
        ["list", "attacks", "--names"],
        ["explain"],
        ["explain", "no-eot"],
        ["explain", "--json"],
    ],
)
def test_no_torch_where_none_is_needed(tmp_path, installed, arguments):  # noqa: F811
    code = (
        "import sys\nfrom robustbench_gan.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules, 'imported'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(installed, tmp_path), text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout and done.stderr == ""


@pytest.mark.slow
def test_the_installed_program_sees_plugins_and_fails_in_one_line(tmp_path, installed):  # noqa: F811
    def rbg(*arguments):
        command = [sys.executable, "-c", "from robustbench_gan.cli import main; main()", *arguments]
        return subprocess.run(
            command, env=environment(installed, tmp_path), text=True, capture_output=True, cwd=tmp_path
        )

    ran = rbg("evaluate", *SMALL, "--attack", "crashes", "--json")
    assert ran.returncode == 1 and [row["status"] for row in json.loads(ran.stdout)] == ["failed", "ok"]
    bad = rbg("evaluate", *SMALL, "--attack", "pdg")
    assert (bad.returncode, bad.stdout) == (2, "") and bad.stderr.count("\n") == 1


CHATTY = """
import os, subprocess, sys
print("imported")
from rbg_attacks.fgsm import fgsm
from robustbench_gan.contracts.attacks import attack
from robustbench_gan.contracts.defense import Defense

@attack(needs="nothing", paper="planted")
def chatty(view, x, goal, budget, seed):
    print("called")
    os.write(1, b"written")
    subprocess.run(["echo", "echoed"], check=True)
    sys.__stdout__.write("original")
    return x.clone()

class Chatty(Defense):
    def __init__(self, base):
        print("made")
        super().__init__(base)

    def fit(self, data, seed, store):
        print("fitted")
"""


@pytest.mark.parametrize("command", ["evaluate", "audit", "list", "train"])
def test_what_a_plugin_prints_goes_to_standard_error(rbg, plugin_path, capfd, command):
    points = "[robustbench_gan.attacks]\nchatty = chatty:chatty\n[robustbench_gan.defenses]\nchatty = chatty:Chatty\n"
    plant(plugin_path, "chatty", points, {"chatty.py": CHATTY})
    small = ["--dataset", "grey", "--classifier", "fixed"]
    arguments = {
        "evaluate": [*SMALL, "--attack", "chatty", "--defense", "chatty"],
        "audit": ["chatty", *small, "--samples", "10", "--check", "dropout", "--dry-run"],
        "list": ["defenses"],
        "train": ["chatty", *small],
    }[command]
    with pytest.raises(SystemExit) as end:
        main([command, *arguments, "--json"])
    out, err = capfd.readouterr()
    assert end.value.code == 0, err
    assert json.loads(out)
    said = ["imported"] + ["made"] * (command != "list") + ["fitted"] * (command in ("evaluate", "train"))
    assert all(word in err for word in said)
    if command == "evaluate":
        assert all(word in err for word in ("called", "written", "echoed", "original"))


def test_a_thread_that_a_plugin_left_running_does_not_keep_the_command():
    code = (
        "import threading, time; from robustbench_gan.base import stopping; before = threading.enumerate();"
        "threading.Thread(target=time.sleep, args=({},)).start(); stopping.abandon(before, 3)"
    )
    left = subprocess.run([sys.executable, "-c", code.format(60)], capture_output=True, text=True, timeout=30)
    assert (left.returncode, left.stderr) == (
        3,
        "rbg: a plugin left a thread running, which was abandoned.\n",
    )
    ended = subprocess.run(
        [sys.executable, "-c", code.format(0.1)], capture_output=True, text=True, timeout=30
    )
    assert (ended.returncode, ended.stderr) == (0, "")

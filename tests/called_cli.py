"""`rbg` called in an empty directory, a small cell to ask it for, and what a refusal looks like."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from robustbench_gan.cli import main

ROW = [
    "dataset", "classifier", "defense", "attack", "goal", "threat", "norm", "eps", "n", "clean_accuracy",
    "robust_accuracy", "ci_low", "ci_high", "status", "flags", "craft_seconds_per_image",
    "defense_seconds_per_image",
]  # fmt: skip
SMALL = ["--dataset", "grey", "--classifier", "fixed", "--defense", "none", "--attack", "fgsm", "--threat",
         "white-box", "--eps", "0.1", "--samples", "10", "--judge-seeds", "1", "--device", "cpu"]  # fmt: skip


@pytest.fixture(name="rbg")
def rbg_in_an_empty_directory(tmp_path, monkeypatch):
    """Call `rbg` in an empty directory with an empty cache."""
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments, **more):
        return CliRunner().invoke(main, [str(a) for a in arguments], **more)

    return call


def refused(result, *says):
    """Exit code 2, nothing on standard output, and one line that says all this.

    Click's own usage may stand before it, or what the run was about to do.
    """
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit) and result.stdout == ""
    lines = [
        line
        for line in result.stderr.splitlines()
        if line and not line.startswith(("Usage:", "Try '", "quick: "))
    ]
    assert len(lines) == 1, result.stderr
    for part in says:
        assert part in lines[0]

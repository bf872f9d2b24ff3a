"""Two model files of one name, two weights, and what plain torch says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from planted_cells import grey
from safetensors.torch import save_file

from robustbench_gan.cli import main
from robustbench_gan.data.dataset import HOLDOUT
from robustbench_gan.leaderboard import load_results

FACTORY = """
from torch import nn

class Pixels(nn.Flatten):
    def forward(self, x):
        return super().forward(x) - {less}

def make(shape, classes):
    return nn.Sequential(Pixels(), nn.Linear(16, classes, bias=False))
"""
ASKED = ["--dataset", "grey", "--defense", "none", "--attack", "fgsm", "--threat", "white-box", "--eps", "0.1",
         "--samples", "40", "--judge-seeds", "1", "--device", "cpu"]  # fmt: skip


@pytest.fixture(name="rbg")
def rbg_on_own_models(tmp_path, monkeypatch):
    """Call `rbg` in a directory with two model files of one name, a/model.py and b/model.py, and two weights."""
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for folder, less in (("a", 0), ("b", 0.5)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.py").write_text(FACTORY.format(less=less))
    for name in ("one", "two"):
        save_file({"1.weight": WEIGHTS[name]}, tmp_path / f"{name}.safetensors")

    def call(*arguments, code=0):
        done = CliRunner().invoke(main, [str(a) for a in arguments])
        assert done.exit_code == code, (done.output, done.exception)
        return done

    return call


def _weights(seed):
    return torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))


WEIGHTS = {"one": _weights(3), "two": _weights(4)}


def expected(weight, less=0.0):
    """Clean and, after the one step of FGSM in linf, robust accuracy of the linear model, in plain torch."""
    split = grey().test
    x = (split.images[HOLDOUT : HOLDOUT + 40].double() / 255).requires_grad_()
    y = split.labels[HOLDOUT : HOLDOUT + 40]

    def logits(at):
        return (at - less).flatten(1) @ weight.double().T

    (slope,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits(x), y, reduction="sum"), x)
    moved = (x + 0.1 * slope.sign()).clamp(0, 1)
    clean = logits(x).argmax(1) == y
    robust = clean & (logits(moved).argmax(1) == y)
    return clean.double().mean().item(), robust.double().mean().item()


def found(out):
    """Clean and robust accuracy by the classifier's name in each record."""
    return {
        str(r.cell.classifier): (r.accuracy("clean").value, r.accuracy("robust").value)
        for r in load_results(Path(out))
    }

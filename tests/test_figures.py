"""The figures stated in docs/figures.md, each measured by the command written beside it there.

They train for minutes, so they run only when asked for: `pytest -m figures`. The store is the user's own, so
that what was trained once is not trained again.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.figures

QUICK_GAN = "defense-gan:width=32,iterations=50,restarts=4,prune=true,precision=bf16,gan_steps=1100,gan_lr=0.0005,critic_steps=2,ema=0.99,gan_decay=true"
PGD_TRAINED = (
    "adversarial-training:attack=pgd(steps=7,step=0.1),mix=1.0,labels=true,epochs=10,batch_size=100,"
    "lr=0.005,warmup=0.2"
)


def rbg(*arguments):
    command = [sys.executable, "-c", "from robustbench_gan.cli import main; main()", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def evaluated(tmp_path, *arguments):
    return rbg("evaluate", "--dataset", "mnist", "--out", str(tmp_path / "out"), *arguments)


@pytest.mark.parametrize(
    ("model", "least"),
    [
        ("a", 0.990),
        ("b", 0.95),
        ("b:dropout=keep", 0.95),
        ("c", 0.990),
        ("d", 0.975),
        ("e", 0.975),
        ("f", 0.985),
    ],
)
def test_test_accuracy_of_the_papers_classifiers(model, least):
    (row,) = rbg("train", model)
    assert row["test_accuracy"] >= least


def test_undefended_white_box(tmp_path):
    arguments = [
        "--defense",
        "none",
        "--threat",
        "white-box",
        "--samples",
        "1000",
        "--max-cell-minutes",
        "60",
    ]
    rows = evaluated(
        tmp_path, *arguments, "--attack", "fgsm", "--attack", "pgd:steps=20", "--judge-seeds", "1"
    )
    fgsm, pgd = (row["robust_accuracy"] for row in rows)
    assert fgsm <= 0.40
    assert pgd <= 0.02


def test_pgd_training_under_pgd_40(tmp_path):
    arguments = ["--defense", PGD_TRAINED, "--threat", "white-box", "--attack", "pgd:steps=40"]
    (row,) = evaluated(tmp_path, *arguments, "--samples", "1000", "--max-cell-minutes", "60")
    assert row["status"] == "ok"
    assert row["robust_accuracy"] >= 0.85


def test_defense_gan_black_box_white_box_and_cut(tmp_path):
    arguments = ["--defense", QUICK_GAN, "--samples", "500", "--judge-seeds", "1", "--max-cell-minutes", "60"]
    common = [*arguments, "--attack", "fgsm"]
    black, white = evaluated(tmp_path, *common, "--threat", "black-box:rounds=3", "--threat", "white-box")
    (cut,) = evaluated(tmp_path, *common, "--threat", "white-box", "--gradient", "cut")
    assert black["clean_accuracy"] >= 0.95
    assert white["robust_accuracy"] <= black["robust_accuracy"] - 0.20
    assert white["ci_high"] < black["ci_low"]
    assert cut["status"] == "suspect"
    assert cut["robust_accuracy"] > black["robust_accuracy"]

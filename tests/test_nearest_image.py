"""The tool that asks what the nearest image is worth: known neighbours, and a table of every kind of image."""

from __future__ import annotations

import torch
from click.testing import CliRunner
from rbg_figures import nearest_image as tool

from robustbench_gan.cli import main
from robustbench_gan.data.dataset import Split

SMALL = "defense-gan:width=4,gan_steps=1,critic_steps=1,iterations=2,restarts=2"


def test_the_nearest_training_image_is_found_with_its_label():
    values = torch.tensor([0, 100, 255], dtype=torch.uint8)
    train = Split(values.reshape(3, 1, 1, 1).expand(3, 1, 2, 2).contiguous(), torch.tensor([5, 6, 7]))
    x = torch.tensor([0.1, 0.3, 0.9, 0.55]).reshape(4, 1, 1, 1).expand(4, 1, 2, 2)
    found, labels = tool.nearest(x, train)
    assert labels.tolist() == [5, 6, 7, 6]
    assert torch.allclose(found[:, 0, 0, 0], torch.tensor([0, 100, 255, 100]) / 255)
    assert torch.allclose(tool.error(x, found)[0], torch.tensor(0.01))


def test_the_table_has_every_row_and_refuses_what_has_no_projection(tmp_path, monkeypatch):
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "cache"))
    asked = ["--classifier", "small-cnn", "--threat", "black-box:model=small-cnn,rounds=1", "--samples", "20"]
    done = CliRunner().invoke(tool.main, [SMALL, "--reference", "none", *asked], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in done.output.splitlines() if "|" in line
    ]
    assert [row[0] for row in rows[2:]] == ["clean"] * 4 + ["attacked"] * 4
    lengths = {(row[0], row[1].rpartition("=")[2]): float(row[4]) for row in rows[2:] if row[4]}
    # After one update the codes are still about as long as they were drawn: 1, and sqrt(128).
    assert all(
        0.5 < lengths[kind, "small"] < 3 and 9 < lengths[kind, "prior"] < 14 for kind in ("clean", "attacked")
    )
    again = CliRunner().invoke(tool.main, ["none", *asked])
    assert again.exit_code == 2 and "has no projection" in again.output


def test_the_command_line_finds_the_figures_and_ends_their_errors_in_one_line():
    listed = CliRunner().invoke(main, ["reproduce", "--help"])
    assert listed.exit_code == 0 and all(
        name in listed.output for name in ("nearest-image", "trained-attacks")
    )
    done = CliRunner().invoke(main, ["reproduce", "nearest-image", "none", "--dataset", "no-such-data"])
    assert done.exit_code == 2 and "no-such-data" in done.stderr and "Traceback" not in done.output
    assert CliRunner().invoke(main, ["reproduce", "no-such-figure"]).exit_code == 2

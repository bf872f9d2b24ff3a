"""The tool that compares the projection engines: what it counts, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import re

from click.testing import CliRunner
from rbg_figures import projection_accuracy as tool

SMALL = "defense-gan:width=4,gan_steps=1,critic_steps=1,iterations=2,restarts=2"


def row(engine, first, clean, attacked, **more):
    return {
        "engine": engine,
        "first": first,
        "clean": clean,
        "attacked": attacked,
        "seconds": 50.0,
        "asked": {},
        **more,
    }


def test_engines_are_compared_on_the_images_that_both_have_seen():
    page = tool.table([
        row("exact", 0, "1" * 100, "1" * 50 + "0" * 50),
        row("exact", 100, "0" * 100, "0" * 100),  # which bf16 has not seen
        row("bf16", 0, "1" * 98 + "00", "1" * 100),
    ])  # fmt: skip
    exact, bf16 = (
        next(line for line in page.splitlines() if line.startswith(f"| {e} ")) for e in ("exact", "bf16")
    )
    assert exact.startswith("| exact | 0.250 | 0.500 [") and "| 0.0 |" in exact and exact.endswith("| 200 |")
    # two of a hundred lost: 2 points, give or take 1.96 standard errors of sqrt(.02 * .98 / 99)
    assert "-2.0 [-4.8, +0.8]" in bf16
    assert re.search(r"\+50\.0 \[\+40\.2, \+59\.8\]", bf16) and bf16.endswith("| 100 |")


def test_an_image_counts_once_however_many_seeds_it_was_tried_under():
    half = "1" * 50 + "0" * 50
    page = tool.table([
        row("exact", 0, "1" * 100, "1" * 100, seed=0),
        row("exact", 0, "1" * 100, "1" * 100, seed=1),
        row("exact", 0, "0" * 100, "0" * 100, seed=2),  # which bf16 has not seen
        row("bf16", 0, "1" * 100, half, seed=0),
        row("bf16", 0, half, half, seed=1),
    ])  # fmt: skip
    bf16 = page.splitlines()[-1]
    # half of the images lost under one of two seeds: 0.25, give or take 1.96 standard errors of 0.25 / sqrt(99)
    assert bf16.startswith("| bf16 | 0.250 | 0.750 [") and "-25.0 [-29.9, -20.1]" in bf16
    assert "-50.0 [-59.8, -40.2]" in bf16 and bf16.endswith("| 100, 2 seeds |")


def test_an_engine_alone_has_nothing_to_be_compared_with():
    (line,) = tool.table([row("bf16", 0, "1" * 100, "0" * 100)]).splitlines()[2:]
    assert line.count("| – |") == 2 and line.endswith("| 100 |")


def test_a_line_that_was_cut_off_is_measured_again(tmp_path):
    whole = json.dumps(row("exact", 0, "1", "0"))
    path = tmp_path / "out.jsonl"
    path.write_text(f"{whole}\n{whole[:20]}")
    assert tool.rows(path) == [json.loads(whole)]
    assert tool.rows(tmp_path / "none.jsonl") == []
    tool.append(path, row("bf16", 0, "0", "0"))
    assert [each["engine"] for each in tool.rows(path)] == ["exact", "bf16"]


def test_it_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "cache"))
    out = tmp_path / "out.jsonl"
    asked = [str(out), SMALL, "--samples", "100", "--engine", "exact"]
    done = CliRunner().invoke(tool.main, asked)
    assert done.exit_code == 0 and "| exact |" in done.output, done.output
    (first,) = tool.rows(out)
    assert len(first["clean"]) == len(first["attacked"]) == 100 and set(first["clean"]) <= {"0", "1"}
    seen, project = [], tool.project
    monkeypatch.setattr(
        tool, "project", lambda system, how, *rest: (seen.append(how.prune), project(system, how, *rest))[1]
    )
    again = CliRunner().invoke(tool.main, [*asked, "--engine", "pruned"])
    assert again.exit_code == 0 and "| pruned |" in again.output, again.output
    assert seen == [True] and tool.rows(out)[0] == first
    other = CliRunner().invoke(tool.main, [*asked, "--seed", "1"])
    assert other.exit_code == 0 and seen == [True, False] and "| 100, 2 seeds |" in other.output


def test_a_processor_without_bfloat16_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("RBG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tool, "multiplies_bfloat16", lambda device: False)
    done = CliRunner().invoke(tool.main, [str(tmp_path / "out.jsonl"), SMALL, "--engine", "bf16"])
    assert done.exit_code == 2 and "bfloat16" in done.output and "--engine" in done.output

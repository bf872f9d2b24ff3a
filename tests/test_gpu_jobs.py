"""tools/gpu_jobs.sh: it names its jobs, stops in time, and what it packs comes back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "gpu_jobs.sh"
pytestmark = pytest.mark.skipif(os.name != "posix" or not shutil.which("bash"), reason="needs bash")


@pytest.fixture
def jobs(tmp_path):
    def call(*arguments, **settings):
        places = {"CARRY": str(tmp_path / "carry"), "OUT": str(tmp_path / "out"), "PYTHON": sys.executable}
        space = {**os.environ, **places, **settings}
        return subprocess.run([SCRIPT, *map(str, arguments)], env=space, text=True, capture_output=True)

    return call


def test_the_jobs_are_listed_and_an_unknown_one_is_refused(jobs):
    listed = jobs("list")
    assert listed.returncode == 0
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert {"quick", "standard", "figures", "timings", "all"} <= set(names)
    refused = jobs("quik")
    assert refused.returncode == 2 and "unknown job 'quik'" in refused.stderr and "standard" in refused.stderr


def test_what_is_packed_comes_back_in_parts_that_may_travel(jobs, tmp_path):
    store = tmp_path / "carry" / "cache" / "artifacts"
    store.mkdir(parents=True)
    (store / "a.safetensors").write_bytes(os.urandom(16_000_000))
    (tmp_path / "carry" / "timings").mkdir()
    (tmp_path / "carry" / "timings" / "projection.jsonl").write_text("{}\n")
    assert jobs("pack").returncode == 0
    parts = sorted((tmp_path / "out").iterdir())
    assert len(parts) == 2 and all(part.stat().st_size <= 15_000_000 for part in parts)
    other = tmp_path / "other"
    assert jobs("unpack", tmp_path / "out", CARRY=str(other)).returncode == 0
    again = other / "cache" / "artifacts" / "a.safetensors"
    assert again.read_bytes() == (store / "a.safetensors").read_bytes()
    assert (other / "timings" / "projection.jsonl").exists()


def test_a_job_without_time_left_says_that_it_is_to_be_called_again(jobs):
    done = jobs("quick", TINY="1", LIMIT="1")
    assert done.returncode == 3 and "quick: not finished; call it again" in done.stdout


@pytest.mark.nightly
def test_a_job_stops_at_its_limit_and_goes_on_at_the_next_call(jobs, tmp_path):
    settings = {"TINY": "1", "DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    codes = [jobs("quick", LIMIT="20", **settings).returncode]
    while codes[-1] == 3 and len(codes) < 3:
        codes.append(jobs("quick", LIMIT="300", **settings).returncode)
    assert codes[-1] == 0
    kinds = {path.name.partition("-")[0] for path in (tmp_path / "carry" / "cache" / "artifacts").iterdir()}
    assert {"classifier", "wgan", "substitute"} <= kinds

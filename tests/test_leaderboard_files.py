"""The files that a leaderboard is built from: read back, kept apart by version, refused, replaced."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from planted_results import MIXED, result, store

from robustbench_gan.base.errors import UsageError
from robustbench_gan.leaderboard import build, load_results, markdown


def test_load_reads_back_what_was_written_sorted(tmp_path: Path) -> None:
    store(tmp_path, "b", *MIXED)
    store(tmp_path, "a", result("0000", eps=math.inf))
    loaded = load_results(tmp_path)
    assert loaded == load_results(tmp_path / "results") and len(loaded) == len(MIXED) + 1
    assert markdown(loaded) == markdown([*MIXED, result("0000", eps=math.inf)])


def test_copies_of_one_fingerprint_count_once_and_doubt_wins(tmp_path: Path) -> None:
    store(tmp_path, "a", result("1110"))
    store(tmp_path, "b", result("1110", status="suspect"))
    assert [r.status for r in load_results(tmp_path)] == ["suspect"]


def test_stale_results_are_an_error_unless_the_matrix_is_given(tmp_path: Path) -> None:
    old, new = result("1110", identity={"engine": "1"}), result("1000", identity={"engine": "2"})
    store(tmp_path, "old", old)
    store(tmp_path, "new", new)
    with pytest.raises(UsageError, match=r"new.*\.json and .*old.*\.json .* differ in: engine.*delete"):
        load_results(tmp_path)
    assert load_results(tmp_path, only={new.fingerprint}) == [new]
    with pytest.raises(UsageError, match="same question"):
        markdown([old, new])


@pytest.mark.parametrize("part", ["engine", "defense", "classifier", "data", "loader", "train_seed"])
def test_a_row_of_two_versions_of_one_system_is_an_error_unless_one_is_known_to_be_new(
    tmp_path, part
) -> None:
    old = result("1110", attack="fgsm", identity={"engine": "1", "attack": "f", part: "old"})
    new = result("1000", identity={"engine": "1", "attack": "p", part: "new"})
    other = result("1100", defense="magnet", identity={"engine": "1", "attack": "p", part: "old"})
    for name, one in (("old", old), ("new", new), ("other", other)):
        store(tmp_path, name, one)
    with pytest.raises(
        UsageError, match=f"new.*json and .*old.*json judge the same system but differ in: .*{part}"
    ):
        load_results(tmp_path)
    told: list[str] = []
    assert load_results(tmp_path, current=[new], say=told.append) == [other, new]
    assert len(told) == 1 and told[0].startswith("left out: 1 results in ")
    assert load_results(tmp_path, current=[old, other]) == [other, old]
    assert load_results(tmp_path, only={new.fingerprint}, current=[new], say=told.append) == [new]
    assert len(told) == 1  # nothing was left out that was asked for


def test_two_versions_of_one_attack_do_not_share_a_row(tmp_path: Path) -> None:
    old = result("1110", threat="gray-box", identity={"engine": "1", "attack": "old"})
    new = result("1000", identity={"engine": "1", "attack": "new"})
    store(tmp_path, "old", old)
    store(tmp_path, "new", new, result("1100", attack="fgsm", identity={"engine": "1", "attack": "f"}))
    with pytest.raises(UsageError, match="judge the same system but differ in: attack"):
        load_results(tmp_path)
    assert [str(r.cell.attack) for r in load_results(tmp_path, current=[new])] == ["fgsm", "pgd"]


def test_a_row_says_what_the_processor_computed_otherwise_and_never_mixes_two_kinds(tmp_path: Path) -> None:
    one = result("1000", defense="magnet", more={"precision": {"bf16": "float32"}})
    page = markdown([one, result("1110")])
    assert "| magnet \\[bf16 as float32\\] |" in page and "| none |" in page
    store(tmp_path, "here", one)
    store(tmp_path, "there", result("1110", defense="magnet", attack="fgsm"))
    with pytest.raises(UsageError, match="judge the same system but differ in: bf16 computed as"):
        load_results(tmp_path)


def test_what_has_no_number_makes_no_version(tmp_path: Path) -> None:
    store(tmp_path, "old", result(status="not applicable", attack="fgsm", identity={"engine": "1"}))
    store(tmp_path, "new", result("1000", identity={"engine": "2"}))
    assert len(load_results(tmp_path)) == 2


@pytest.mark.parametrize("text", ["{", '{"schema_version": 9}', '{"schema_version": 1}', "\udcff"])
def test_an_unreadable_file_is_named(tmp_path: Path, text: str) -> None:
    store(tmp_path, "a", result("1110"))
    bad = tmp_path / "results" / "bad.json"
    bad.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=r"bad\.json"):
        load_results(tmp_path)


def test_hidden_and_other_files_are_not_read(tmp_path: Path) -> None:
    store(tmp_path, "a", result("1110"))
    (tmp_path / "results" / ".tmp-1.json").write_text("{")
    (tmp_path / "results" / "notes.txt").write_text("x")
    assert len(load_results(tmp_path)) == 1


def test_a_directory_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no directory `results`"):
        load_results(tmp_path)
    (tmp_path / "results").mkdir()
    assert load_results(tmp_path) == []
    with pytest.raises(UsageError, match="no results to show"):
        build(tmp_path)


def test_build_replaces_the_page_and_leaves_nothing_else(tmp_path: Path) -> None:
    store(tmp_path, "a", *MIXED)
    (tmp_path / "README.md").write_text(markdown(MIXED[:1]), encoding="utf-8")
    assert build(tmp_path) == tmp_path / "README.md"
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == markdown(MIXED)
    out = build(tmp_path, tmp_path / "new" / "page.md", only={MIXED[0].fingerprint})
    assert "good" in out.read_text(encoding="utf-8") and "weak" not in out.read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "new", "results"]


def test_build_keeps_the_old_page_when_it_cannot_write(tmp_path: Path) -> None:
    store(tmp_path, "a", *MIXED)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot write"):
        build(tmp_path, tmp_path / "file" / "page.md")
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="cannot write"):
        build(tmp_path, tmp_path / "taken")
    assert not list(tmp_path.rglob(".tmp-*"))


def test_nothing_imports_torch() -> None:
    code = "import sys, robustbench_gan.leaderboard as l; l.markdown([]); l.console_table([]); "
    code += "print({'torch', 'pandas', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

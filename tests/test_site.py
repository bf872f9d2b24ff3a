"""The pages that a newcomer follows: what they tell him to type works, in the order in which it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from robustbench_gan.cli import main

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^<!-- (run|python|file: \S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOLLOWED = ("index", "my_model", "my_defense", "my_data")


@pytest.mark.parametrize("page", FOLLOWED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_a_page_says_to_type_works(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    blocks = BLOCK.findall((DOCS / f"{page}.md").read_text(encoding="utf-8"))
    assert any(kind in ("run", "python") for kind, _ in blocks)
    for kind, text in blocks:
        if kind.startswith("file: "):
            (tmp_path / kind.removeprefix("file: ")).write_text(text)
        elif kind == "python":
            exec(compile(text, f"{page}.md", "exec"), {"__name__": page})
        else:
            for line in text.strip().splitlines():
                done = CliRunner().invoke(main, line.removeprefix("rbg ").split(), env={"COLUMNS": "200"})
                assert done.exit_code == 0, f"{line}\n{done.output}"


def test_the_number_that_is_explained_is_published():
    text = (DOCS / "read_a_leaderboard.md").read_text(encoding="utf-8")
    (number,) = set(re.findall(r"^\*\*The number\.\*\* (\S+ \[[^\]]*\])", text, re.MULTILINE))
    assert number in (DOCS.parent / "leaderboard" / "README.md").read_text(encoding="utf-8")


def test_every_page_of_the_site_exists_and_every_page_is_in_it():
    text = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r": ([\w/]+\.md)$", text, re.MULTILINE))
    assert named == {path.name for path in DOCS.glob("*.md")}
    assert {"attacks/", "defenses/"} <= set(re.findall(r": (\w+/)$", text, re.MULTILINE))

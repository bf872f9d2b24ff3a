"""The pages that a newcomer follows: what they tell him to type works, in the order in which it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from robustbench_gan.cli import main

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^<!-- (run|python|file: \S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOLLOWED = ("index", "my_model", "my_defense", "my_data", "publish", "using", "audit")


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)[1:]


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
                done = CliRunner().invoke(main, words(line), env={"COLUMNS": "200"})
                assert done.exit_code == 0, f"{line}\n{done.output}"


def commands(page: Path) -> list[str]:
    """The commands of a page that are not run here, with the shell's variables and continued lines written out."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    variables = re.findall(r"([A-Z]+)=([^\s\"]+|\"[^\"]*\")", text)
    for name, value in [*variables, *variables]:  # one may stand in another
        text = text.replace(f"${name}", value.strip('"'))
    return [line.strip() for line in text.split("\n") if re.match(r"(    )?(\.venv/bin/)?rbg [a-z]", line)]


OTHERS = [*(p for p in sorted(DOCS.glob("*.md")) if p.stem not in FOLLOWED), DOCS.parent / "README.md"]


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: page.stem)
def test_what_takes_too_long_to_be_run_here_is_a_command_all_the_same(page):
    """Its options exist, and their values are of the right kind."""
    for line in commands(page):
        command, context, rest = main, None, words(line)
        while isinstance(command, click.Group):
            context = command.make_context(command.name or "rbg", rest, parent=context)
            name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        command.make_context(name, rest, parent=context)


def test_the_number_that_is_explained_is_published():
    text = (DOCS / "read_a_leaderboard.md").read_text(encoding="utf-8")
    (number,) = set(re.findall(r"^\*\*The number\.\*\* (\S+ \[[^\]]*\])", text, re.MULTILINE))
    assert number in (DOCS.parent / "leaderboard" / "README.md").read_text(encoding="utf-8")


def test_every_page_of_the_site_exists_and_every_page_is_in_it():
    text = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r": ([\w/]+\.md)$", text, re.MULTILINE))
    assert named == {path.name for path in DOCS.glob("*.md")}
    assert {"attacks/", "defenses/"} <= set(re.findall(r": (\w+/)$", text, re.MULTILINE))

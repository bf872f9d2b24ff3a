"""Write the generated documents, or with --check say which are stale.

They are docs/{reference,red_flags,controls,statuses,cli,presets}.md, docs/result.schema.json, a page an attack and a
defense below docs/attacks and docs/defenses and, once leaderboard/ holds results, leaderboard/README.md, its picture
the table in README.md and the diff in CONTRIBUTING.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from docs_checks import command_line, controls, preset_files, red_flags, schema, statuses
from docs_reference import entries, reference

from robustbench_gan.leaderboard import load_results, markdown, picture, tables
from robustbench_gan.leaderboard.labels import Labels
from robustbench_gan.leaderboard.overview import overview
from robustbench_gan.nouns.record import Result

ROOT = Path(__file__).resolve().parents[1]
TABLE = "table"  # the part of README.md that is generated
FGSM = "fgsm"  # and of CONTRIBUTING.md
FOLDERS = ("docs/attacks", "docs/defenses")  # hold generated pages alone


def generated() -> dict[str, str]:
    """Every generated document by its path from the root, the same on every machine."""
    documents = {
        "docs/reference.md": reference(),
        "docs/red_flags.md": red_flags(),
        "docs/controls.md": controls(ROOT / "docs" / "self_test.json"),
        "docs/statuses.md": statuses(ROOT / "tests" / "expected_statuses.json"),
        "docs/result.schema.json": schema(),
        "docs/cli.md": command_line(),
        "docs/presets.md": preset_files(),
    }
    documents["CONTRIBUTING.md"] = contributing((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    results: list[Result] = []
    if (ROOT / "leaderboard" / "results").is_dir():
        results = load_results(ROOT / "leaderboard")
        documents["leaderboard/README.md"] = markdown(results)
        documents["leaderboard/leaderboard.svg"] = picture(results)
        documents["README.md"] = readme((ROOT / "README.md").read_text(encoding="utf-8"), results)
    return documents | entries(results)


def readme(text: str, results: list[Result]) -> str:
    """README.md with the overview of the leaderboard between its two marks."""
    return marked("README.md", text, TABLE, overview(tables(results), Labels.among(results)))


def contributing(text: str) -> str:
    """CONTRIBUTING.md with all that registers FGSM, as a diff."""
    name = "plugins/rbg_attacks/fgsm.py"
    file = (ROOT / name).read_text(encoding="utf-8").rstrip("\n").split("\n")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("\n")
    (at,) = [number for number, line in enumerate(project) if line.startswith("fgsm =")]
    lines = [
        "```diff", "--- /dev/null", f"+++ b/{name}", f"@@ -0,0 +1,{len(file)} @@", *(f"+{line}" for line in file),
        "--- a/pyproject.toml", "+++ b/pyproject.toml", f"@@ -{at},2 +{at},3 @@",
        f" {project[at - 1]}", f"+{project[at]}", f" {project[at + 1]}", "```",
    ]  # fmt: skip
    return marked("CONTRIBUTING.md", text, FGSM, ["\n".join(lines)])


def marked(name: str, text: str, part: str, blocks: list[str]) -> str:
    """A text with other blocks between the two marks of one of its parts."""
    begin, end = f"<!-- {part}: begin (tools/generate_docs.py) -->", f"<!-- {part}: end -->"
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise SystemExit(f"generate_docs: {name} lacks the marks {begin} and {end}.")
    return "\n\n".join([before + begin, *blocks, end + after])


def main(arguments: list[str] | None = None) -> int:
    """Write every document that differs; with --check, write none and fail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a document is stale")
    check = parser.parse_args(arguments).check
    documents = generated()
    stale = {path: text for path, text in documents.items() if not same(ROOT / path, text)}
    left = [
        page
        for folder in FOLDERS
        for page in sorted((ROOT / folder).glob("*.md"))
        if page.relative_to(ROOT).as_posix() not in documents
    ]
    for page in left:  # of what is registered no more
        print(f"{page.relative_to(ROOT)} is of nothing registered" + ("" if check else ": deleted"))
        if not check:
            page.unlink()
    for path, text in stale.items():
        if check:
            print(f"{path} is stale: run python tools/generate_docs.py")
        else:
            (ROOT / path).parent.mkdir(exist_ok=True)
            (ROOT / path).write_text(text, encoding="utf-8", newline="\n")
            print(f"wrote {path}")
    return int(check and bool(stale or left))


def same(path: Path, text: str) -> bool:
    """Does a file hold just this text?"""
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())

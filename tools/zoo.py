"""Keep robustbench_gan/zoo/, the weights that the package brings along.

`train quick` trains what the preset needs into the store, whatever is bundled; `add quick` takes it from there,
measures it and writes its card; `check` finds what is stale, too large or undocumented; `list` shows what is there:

    export RBG_CACHE_DIR=/somewhere/empty
    python tools/zoo.py train quick      # or RBG_ZOO=off rbg evaluate --preset quick, which trains the same
    python tools/zoo.py add quick && python tools/zoo.py check --prune
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

from zoo_adding import add
from zoo_cards import page, read_index, sha256, write_index
from zoo_steps import ROOT, Peek, matrix_of, train_all, walk

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import write_text_atomically
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.training.store import ZOO, Store, read_artifact, read_header, recipe_key

PAGE = ROOT / "docs" / "zoo.md"
LIMIT = 40_000_000  # bytes, all files together


def faults(zoo: Path) -> Iterator[tuple[str, str]]:
    """What is wrong with the files of a zoo, as pairs of key and complaint; whether they are stale is left out."""
    index = read_index(zoo)
    files = {path.stem: path for path in sorted(zoo.glob("*.safetensors"))}
    for key in sorted({*index} ^ {*files}):
        yield key, "has a card but no file" if key in index else "has a file but no card"
    for key in sorted({*index} & {*files}):
        header = read_header(files[key])
        if recipe_key(header["kind"], json.loads(header["recipe"])) != key:
            yield key, "its recipe has another key"
        if index[key]["recipe"] != json.loads(header["recipe"]):
            yield key, "its card has another recipe"
        if read_artifact(files[key]).digest != index[key]["digest"]:
            yield key, "its weights are not those that its card was made for"
        elif sha256(files[key]) != index[key].get("sha256"):
            yield key, "its file is not the one that its card was made for"
    size = sum(path.stat().st_size for path in files.values())
    if size > LIMIT:
        yield "the zoo", f"{size / 1e6:.1f} MB in all, {LIMIT / 1e6:.0f} allowed"


def stale(zoo: Path, dataset: str = "") -> Iterator[tuple[str, str]]:
    """Pairs of an artifact and a matrix whose card says that it needs it, and which the present code does not.

    Its recipe, or one that it stands on, has changed. What an artifact stands on must be bundled as well, since nothing
    is trained to find out. `dataset` looks at the artifacts of one data set alone, so that no other is loaded.
    """
    index = {
        key: card for key, card in read_index(zoo).items() if dataset in ("", card["part_of"]["dataset"])
    }  # fmt: skip
    for name in sorted({name for card in index.values() for name in card["needed_by"]}):
        peek = Peek(zoo / "nothing-is-stored-here", zoo=zoo)
        claimed = {key: card for key, card in index.items() if name in card["needed_by"]}
        used = {Spec.parse(card["part_of"]["dataset"]).name for card in claimed.values()}
        for _ in walk(matrix_of(name, used), peek):
            pass
        yield from ((key, name) for key in sorted(claimed) if key not in peek.asked)


def main(arguments: list[str] | None = None, zoo: Path = ZOO, page_at: Path = PAGE) -> int:
    """Read the command line; returns 1 where something is missing or wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train what a matrix needs into the store, resumable")
    training.add_argument("matrix", help="a preset, or a TOML file by its path from the root")
    training.add_argument(
        "--dataset", action="append", default=[], help="only this one of its data sets; repeatable"
    )
    training.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    adding = commands.add_parser("add", help="take what matrices need from the store, and write their cards")
    adding.add_argument("matrices", nargs="+", help="presets, or TOML files by their path from the root")
    adding.add_argument(
        "--store", type=Path, help="a directory of artifacts; $RBG_CACHE_DIR/artifacts by default"
    )
    adding.add_argument("--dataset", action="append", default=[], help="only these of their data sets")
    adding.add_argument("--samples", type=int, default=1000, help="test images for what is slow to measure")
    adding.add_argument("--float32", action="store_true", help="keep full precision")
    checking = commands.add_parser("check", help="stale, too large, damaged or undocumented?")
    checking.add_argument("--prune", action="store_true", help="delete what is stale or has no card")
    commands.add_parser("list", help="show what is bundled")
    asked = parser.parse_args(arguments)
    if asked.command == "train":
        return int(bool(train_all(matrix_of(asked.matrix, asked.dataset), asked.device)))
    if asked.command == "add":
        return _add(asked, zoo, page_at)
    if asked.command == "list":
        for key, card in sorted(read_index(zoo).items()):
            print(
                f"{key}  {card['bytes'] / 1e6:.2f} MB  {card['precision']}  {card['metric']}: {card['accuracy']:.4f}"
            )
        return 0
    return _check(zoo, page_at, prune=asked.prune)


def _add(asked: argparse.Namespace, zoo: Path, page_at: Path) -> int:
    root, missing = asked.store or Store().root, []
    for name in asked.matrices:
        lacking = add(
            name, root, zoo, samples=asked.samples, half=not asked.float32, datasets=asked.dataset
        )  # fmt: skip
        for key in lacking:
            print(f"not stored: {key}. Train it: python tools/zoo.py train {name}")
        missing += lacking
    write_text_atomically(page_at, page(read_index(zoo)))
    return int(bool(missing))


def _check(zoo: Path, page_at: Path, *, prune: bool) -> int:
    broken, outdated = [*faults(zoo)], [*stale(zoo)]
    if prune:
        _prune(zoo, {key for key, _ in broken}, outdated)
        write_text_atomically(page_at, page(read_index(zoo)))
        broken, outdated = [*faults(zoo)], []
    for key, complaint in broken:
        print(f"{key}: {complaint}")
    for key, name in outdated:
        print(
            f"{key}: stale. {name} does not ask for it: a default, or the code of what it is or stands on, changed. "
            f"`python tools/zoo.py train {name}`, then `add {name}` and `check --prune`"
        )
    documented = page_at.is_file() and page_at.read_text(encoding="utf-8") == page(read_index(zoo))
    if not documented:
        print(f"{page_at.name} is not that of the cards: run `python tools/zoo.py add PRESET`")
    return int(bool(broken or outdated or not documented))


def _prune(zoo: Path, broken: Collection[str], outdated: Collection[tuple[str, str]]) -> None:
    """Forget that a matrix needs what it does not; delete what none needs, and what is broken."""
    index = read_index(zoo)
    for key, name in outdated:
        index[key]["needed_by"].remove(name)
    unused = {key for key, card in index.items() if not card["needed_by"]}
    for key in sorted((unused | {*broken}) - {"the zoo"}):
        index.pop(key, None)
        (zoo / f"{key}.safetensors").unlink(missing_ok=True)
        print(f"deleted: {key}")
    write_index(zoo, index)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UsageError as error:
        sys.exit(f"zoo: {error}")

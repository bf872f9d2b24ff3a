"""Keep robustbench_gan/zoo/, the weights that the package brings along.

`train quick` trains what the preset needs into the store, whatever is bundled; `add quick` takes it from there,
measures it and writes its card; `check` finds what is stale, too large or undocumented; `list` shows what is there:

    export RBG_CACHE_DIR=/somewhere/empty
    python tools/zoo.py train quick      # or RBG_ZOO=off rbg evaluate --preset quick, which trains the same
    python tools/zoo.py add quick && python tools/zoo.py check --prune
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from robustbench_gan.base import machine
from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import write_atomically, write_text_atomically
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.contracts.systems import Defended, answer
from robustbench_gan.data.dataset import HOLDOUT
from robustbench_gan.engine.execute import train
from robustbench_gan.engine.layout import lay_out
from robustbench_gan.engine.matrix import Matrix, preset_text, presets, read_matrix, read_matrix_file
from robustbench_gan.engine.plan import Step, steps_of
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.nouns.spec import Chain, Spec
from robustbench_gan.training.loop import accuracy
from robustbench_gan.training.store import (
    CONTENT,
    INDEX,
    ZOO,
    Artifact,
    Build,
    Recipe,
    Store,
    packed,
    read_artifact,
    read_header,
    recipe_key,
)
from robustbench_gan.training.workshop import Workshop, pick_device

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "zoo.md"
LIMIT = 40_000_000  # bytes, all files together
LARGEST = 8_000_000  # bytes of one file: caches of images are no weights
SMALL = 100_000  # bytes below which halving saves nothing worth having
COST = 0.001  # of accuracy that half precision must stay under: 0.1 point
Card = dict[str, Any]


class Missing(Exception):
    """A step asked for an artifact that is not stored."""


@dataclass
class Peek(Store):
    """A store that never trains: `asked` holds the key and kind of everything that was asked for, in order."""

    asked: dict[str, str] = field(default_factory=dict)

    def fetch(self, kind: str, recipe: Recipe, build: Build) -> Artifact:
        """What is stored. Raises Missing for what is not; its key is known all the same."""
        key = recipe_key(kind, recipe)
        self.asked.setdefault(key, kind)
        if key not in self.used and self.stored(key) is None:
            raise Missing(key)
        return super().fetch(kind, recipe, build)


def matrix_of(name: str, datasets: Collection[str] = ()) -> Matrix:
    """A preset, or a TOML file by its path from the repository's root; on some of its data sets where these are named.

    A data set that is not at hand then need not be loaded.
    """

    def read(overrides: dict[str, Any]) -> Matrix:
        if name in presets():
            return read_matrix(preset_text(name), f"preset {name}", overrides)
        return read_matrix_file(ROOT / name, overrides)

    kept = [text for text in read({}).datasets if Spec.parse(text).name in datasets]
    return read({"datasets": kept} if kept else {})


@contextlib.contextmanager
def processor(*, bfloat16: bool) -> Iterator[None]:
    """Take this processor for one that multiplies bfloat16 itself, or for one that does not."""
    real = machine.multiplies_bfloat16
    machine.multiplies_bfloat16 = lambda device: bfloat16
    try:
        yield
    finally:
        machine.multiplies_bfloat16 = real


def processors(matrix: Matrix) -> tuple[bool, ...]:
    """Kinds of processors that need weights of their own: what is bfloat16 on one is float32 on another."""
    return (True, False) if "bf16" in matrix.model_dump_json() else (True,)


def walk(matrix: Matrix, store: Peek) -> Iterator[tuple[Step, list[str]]]:
    """Each shared step of a matrix with the keys that nothing before it asked for. Nothing is trained.

    A step that stands on a missing artifact yields the keys up to that one: those behind it are decided by it. All
    kinds of processors are gone through; who takes a step is on the one that it is for.
    """
    for kind in processors(matrix):
        with processor(bfloat16=kind):
            yield from _walk(matrix, store)


def _walk(matrix: Matrix, store: Peek) -> Iterator[tuple[Step, list[str]]]:
    workshop = Workshop(store, train_seed=matrix.train_seed)
    for step in steps_of(lay_out(matrix, workshop)):
        if step.kind != "cell":
            before = set(store.asked)
            try:
                train(step, workshop)
            except UsageError:
                raise
            except Exception as error:  # whatever a plugin makes of a missing part
                if not isinstance(error, Missing):
                    print(f"{step.kind} {step.label}: {type(error).__name__}: {error}", file=sys.stderr)
            yield step, [key for key in store.asked if key not in before]


def train_all(matrix: Matrix, device: str) -> list[str]:
    """Train what the shared steps of a matrix need, into the user's store and without the zoo; returns what failed.

    What is stored is not trained again, so that the same call goes on where it was stopped.
    """
    failed = []
    for kind in processors(matrix):
        with processor(bfloat16=kind):
            failed += _train_all(matrix, Workshop(Store(zoo=None), pick_device(device), matrix.train_seed))
    return failed


def _train_all(matrix: Matrix, workshop: Workshop) -> list[str]:
    failed = []
    steps = [step for step in steps_of(lay_out(matrix, workshop)) if step.kind != "cell"]
    for at, step in enumerate(steps, 1):
        started = time.perf_counter()
        try:
            train(step, workshop)
            said = f"{time.perf_counter() - started:.1f} s"
        except Exception as error:  # one that cannot be trained leaves the others alone
            said = f"{type(error).__name__}: {error}"
            failed.append(step.label)
        print(f"{at}/{len(steps)} {step.kind} {step.label}: {said}", flush=True)
    return failed


class Measured(NamedTuple):
    """By what a step's artifacts are judged, how well they do, and on how many test images."""

    metric: str
    value: float
    images: int


def measured(step: Step, store: Store, samples: int) -> Measured:
    """How well a step's artifacts do.

    Clean accuracy on all test images for a classifier or substitute, on `samples` of them for a defense, which may be
    slow and goes by its fastest engine; robust accuracy in its own cell for a trained attack.
    """
    cell, workshop = (
        step.planned.cell,
        Workshop(store, train_seed=int(step.planned.cell.identity["train_seed"])),
    )
    names = cell.dataset, cell.classifier, cell.defense
    test = workshop.dataset(cell.dataset).test
    if step.kind == "classifier":
        return Measured("accuracy", accuracy(workshop.classifier(*names[:2])[0], test), len(test))
    if step.kind == "substitute":
        model, _ = workshop.substitute(*names, step.planned.threat)
        return Measured("accuracy", accuracy(model, test), len(test))
    n = min(samples, len(test) - HOLDOUT)
    if step.kind == "attack":
        planned = replace(step.planned, cell=cell.model_copy(update={"samples": n}))
        result = evaluate_cell(planned, workshop, Settings())
        robust = result.accuracy("robust")
        if robust is None:
            raise UsageError(f"{step.label}: {result.status}: {result.reason}")
        return Measured("robust accuracy under it", robust.value, n)
    x, y = workshop.images(cell.dataset, HOLDOUT, n)
    text, said = fastest(cell.defense)
    with torch.no_grad():
        defended = Defended(workshop.defense(cell.dataset, cell.classifier, text))
        out = answer(defended, x, sample_seeds(0, "zoo", torch.arange(n)))
    return Measured(f"defended clean accuracy{said}", float((out.labels == y).double().mean()), n)


def fastest(defense: str) -> tuple[str, str]:
    """A defense with the fastest engine that it and the processor have, on the same weights; what to say of it."""
    spec, *inner = Chain.parse(defense)
    if spec.name != "defense-gan" or inner or not machine.multiplies_bfloat16(torch.device("cpu")):
        return defense, ""
    engine = {"prune": True, "precision": "bf16"}
    changed = Spec(spec.name, tuple(sorted({**dict(spec.params), **engine}.items())))
    return str(changed), " (pruned, bfloat16)"


def add(
    name: str, root: Path, zoo: Path, *, samples: int, half: bool = True, datasets: Collection[str] = ()
) -> list[str]:
    """Take what a matrix needs and the zoo lacks from the store at `root`; returns the keys that are in no store."""
    index, missing = read_index(zoo), []
    peek = Peek(root, zoo=None)
    for step, keys in walk(matrix_of(name, datasets), peek):
        new = []
        for key in keys:
            if key in index:
                index[key]["needed_by"] = sorted({*index[key]["needed_by"], name})
            elif not peek.path(key).exists():
                missing.append(key)
            elif (size := len(repacked(peek.path(key), half))) > LARGEST:
                print(f"left out: {key}, {size / 1e6:.1f} MB, {step.kind} {step.label}")
            else:
                new.append(key)
        if new:
            for key, card in _taken(step, new, root, zoo, samples, half).items():
                index[key] = {"kind": peek.asked[key], "needed_by": [name], **card}
                print(f"added: {key}  {card['metric']}: {card['accuracy']:.4f}")
        write_index(zoo, index)
    return missing


def _taken(step: Step, keys: list[str], root: Path, zoo: Path, samples: int, half: bool) -> dict[str, Card]:
    """Copy a step's artifacts into the zoo, halved where that is cheap; returns their cards."""
    metric, full, images = measured(step, Peek(root, zoo=None), samples)
    value = full
    half = half and images * COST >= 1  # on fewer images a smaller loss would not show
    if half:
        with tempfile.TemporaryDirectory() as candidate:
            for path in zoo.glob("*.safetensors"):
                (Path(candidate) / path.name).symlink_to(path.resolve())
            for key in keys:
                source = Store(root).path(key)
                (Path(candidate) / source.name).write_bytes(repacked(source, half=True))
            write_index(Path(candidate), {p.stem: {"sha256": sha256(p)} for p in Path(candidate).iterdir()})
            value = measured(step, Peek(root, zoo=Path(candidate)), samples).value
        loss = abs(full - value) if step.kind == "attack" else full - value
        half = loss < COST
    cards = {}
    for key in keys:
        source = Store(root).path(key)
        target = zoo / source.name
        write_atomically(target, repacked(source, half))
        cards[key] = _card(step, target) | {
            "metric": metric, "images": images, "accuracy": value if half else full, "accuracy_float32": full,
        }  # fmt: skip
    return cards


def repacked(path: Path, half: bool) -> bytes:
    """An artifact's file anew, in half precision where that is asked for and possible."""
    header = {name: text for name, text in read_header(path).items() if name not in ("widened", CONTENT)}
    tensors = read_artifact(path).tensors
    if half and path.stat().st_size >= SMALL:
        with contextlib.suppress(UsageError):  # a value is too large for it
            return packed(tensors, header, half=True)
    return packed(tensors, header)


def _card(step: Step, path: Path) -> Card:
    """What a file and its step say of it."""
    header, artifact, cell = read_header(path), read_artifact(path), step.planned.cell
    facts = dict(artifact.info)
    card = {
        "part_of": {"dataset": cell.dataset, "classifier": cell.classifier},
        "recipe": json.loads(header["recipe"]),
        "precision": "float16" if "widened" in header else "float32",
        "bytes": path.stat().st_size,
        "digest": artifact.digest,
        "sha256": sha256(path),
        "training_seconds": round(float(facts.pop("build_seconds", 0.0)), 1),
        "hardware": json.loads(header.get("hardware", "{}")),
        "facts": {k: v for k, v in facts.items() if isinstance(v, int | float | str)},
    }
    if step.kind != "classifier":
        card["part_of"]["defense"] = cell.defense
    if step.kind in ("substitute", "attack"):
        card["part_of"]["threat"] = cell.threat
    if step.kind == "attack":
        card["part_of"] |= {"attack": cell.attack, "budget": f"{cell.norm} {cell.eps:g}"}
    return card


def sha256(path: Path) -> str:
    """Of a file: what the store compares before it takes what is bundled."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_index(zoo: Path) -> dict[str, Card]:
    """The cards by key."""
    path = zoo / INDEX
    index: dict[str, Card] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return index


def write_index(zoo: Path, index: Mapping[str, Card]) -> None:
    """Write all cards, sorted."""
    write_text_atomically(zoo / INDEX, json.dumps(index, indent=1, sort_keys=True) + "\n")


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


def page(index: Mapping[str, Card]) -> str:
    """docs/zoo.md: an overview, then a card for each artifact."""
    lines = [
        "<!-- Generated by tools/zoo.py: do not edit. -->", "", "# Bundled weights", "",
        "Trained weights that come with the package. One is used only where its recipe is exactly the one asked for; "
        "everything else is trained and kept in the cache. A bundled artifact goes before one in the cache, so that "
        "all machines judge with the same weights; `RBG_ZOO=off` leaves them out, and `RBG_ZOO=DIR` takes others. "
        "Half precision is kept only where it costs less than 0.1 point on at least 1,000 images, and is widened to "
        "float32 on loading.", "",
        f"{len(index)} artifacts, {sum(card['bytes'] for card in index.values()) / 1e6:.1f} MB.",
    ]  # fmt: skip
    if index:
        lines += ["", "| artifact | needed by | MB | precision | measured | value | trained in |"]
        lines += ["|---|---|---|---|---|---|---|"]
    for key, card in sorted(index.items()):
        cells = [
            f"[{key}](#{key})", ", ".join(card["needed_by"]), f"{card['bytes'] / 1e6:.2f}", card["precision"],
            _metric(card), f"{card['accuracy']:.4f}", f"{card['training_seconds']:.0f} s",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    for key, card in sorted(index.items()):
        lines += ["", f"## {key}", "", *_section(card)]
    return "\n".join(lines) + "\n"


def _section(card: Card) -> Iterator[str]:
    hardware = ", ".join(f"{k} {v}" for k, v in sorted(card["hardware"].items())) or "on what is not recorded"
    place = f"on a {'GPU' if 'gpu' in card['hardware'] else 'CPU'} " if card["hardware"] else ""
    kept = (
        f"{card['accuracy']:.4f} as bundled ({card['precision']}), {card['accuracy_float32']:.4f} in float32"
    )
    yield from (f"- {name}: `{text}`" for name, text in card["part_of"].items())
    yield f"- {_metric(card)}: {kept}"
    yield f"- trained {place}in {card['training_seconds']:.1f} s: {hardware}"
    yield f"- content: `{card['digest']}`, {card['bytes']} bytes"
    if card["facts"]:
        yield "- facts of its making: " + ", ".join(
            f"{k} {_short(v)}" for k, v in sorted(card["facts"].items())
        )
    yield "- recipe:"
    yield ""
    yield "```json\n" + json.dumps(card["recipe"], indent=1, sort_keys=True) + "\n```"


def _metric(card: Card) -> str:
    return f"{card['metric']}, {card['images']} test images"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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

"""What is taken into a zoo: measured, and halved where that is cheap."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from zoo_cards import Card, card_of, read_index, repacked, sha256, write_index
from zoo_steps import Peek, matrix_of, walk

from robustbench_gan.base import machine
from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import write_atomically
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.contracts.systems import Defended, answer
from robustbench_gan.data.dataset import HOLDOUT
from robustbench_gan.engine.plan import Step
from robustbench_gan.nouns.seeds import sample_seeds
from robustbench_gan.nouns.spec import Chain
from robustbench_gan.training.loop import accuracy
from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import Workshop

LARGEST = 8_000_000  # bytes of one file: caches of images are no weights
COST = 0.001  # of accuracy that half precision must stay under: 0.1 point


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


def fastest(defense: Chain) -> tuple[Chain, str]:
    """A defense with the fastest engine that it and the processor have, on the same weights; what to say of it."""
    spec, *inner = defense
    if spec.name != "defense-gan" or inner or not machine.multiplies_bfloat16(torch.device("cpu")):
        return defense, ""
    engine = {"prune": True, "precision": "bf16"}
    return Chain((spec.replaced(engine),)), " (pruned, bfloat16)"


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
        cards[key] = card_of(step, target) | {
            "metric": metric, "images": images, "accuracy": value if half else full, "accuracy_float32": full,
        }  # fmt: skip
    return cards

"""The adversarial examples of a cell, in a safetensors file beside its record."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import keep_replaced, no_file, refuse_links
from robustbench_gan.nouns.record import Cell, Kept, Result
from robustbench_gan.results.examples import read_examples, write_examples
from robustbench_gan.results.places import place
from robustbench_gan.training.store import read_header

MEND = "Run its command again with --keep-adversarial."


def keep(out: Path, cell: Cell, sets: list[Tensor], labels: Tensor) -> Kept:
    """Write examples, S sets of (N, C, H, W) in [0, 1], and labels (N,); what the record is to say of them.

    The file is whole or not there at all. Raises UsageError where it cannot be written.
    """
    path = beside(out / "results" / place(cell))
    _set_aside(path, cell, out)
    refuse_links(path, out)
    facts = {
        **{
            name: str(getattr(cell, name))
            for name in ("dataset", "classifier", "defense", "threat", "attack", "norm")
        },
        "epsilons": json.dumps([repr(cell.eps)]),
        "fingerprint": cell.fingerprint,
    }
    return Kept(file=path.name, digest=write_examples(path, torch.stack(sets), labels, facts))


def _set_aside(path: Path, cell: Cell, out: Path) -> None:
    """The examples of another answer to the same question are kept where its record will be."""
    if path.exists() and not no_file(path):
        try:
            same = read_header(path).get("fingerprint") == cell.fingerprint
        except Exception:  # what cannot be read is no one's
            return
        if not same:
            keep_replaced(path, out)


def beside(record: Path) -> Path:
    """Where the examples of a record lie."""
    return record.with_suffix(".safetensors")


def examples_of(record: Path, result: Result) -> tuple[Tensor, Tensor]:
    """The examples kept beside a record, (S, N, C, H, W), and their labels (N,).

    Raises UsageError where none were kept, where the file is missing or broken, or where it holds others than the
    record says.
    """
    if result.adversarial is None:
        raise UsageError(f"{record} was made without its examples. {MEND}")
    path = record.with_name(result.adversarial.file)
    if why := no_file(path):
        raise UsageError(f"the examples of {record} are gone: {path}: {why}. {MEND}")
    found = read_examples(path, MEND)
    if found.digest != result.adversarial.digest:
        raise UsageError(f"{path} holds other examples than {record} says: it was edited or mixed up. {MEND}")
    return found.examples, found.labels


def are_kept(record: Path, result: Result) -> bool:
    """Are the examples there, as the record says they were?"""
    try:
        examples_of(record, result)
    except UsageError:
        return False
    return True

"""Sign records anew, by the code of today, where a sample of them comes out the same: the first half of resign.py."""

from __future__ import annotations

import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import write_text_atomically
from robustbench_gan.cell.context import Settings
from robustbench_gan.cell.evaluate import evaluate_cell
from robustbench_gan.cell.question import Planned
from robustbench_gan.engine.execute import execute
from robustbench_gan.engine.layout import lay_out
from robustbench_gan.engine.matrix import Matrix
from robustbench_gan.flags.derive import with_flags
from robustbench_gan.flags.identity import checks_digest
from robustbench_gan.leaderboard.load import records_below, root_of
from robustbench_gan.nouns.record import SCHEMA_VERSION, Cell, Result
from robustbench_gan.nouns.spec import Spec
from robustbench_gan.results.coherence import coherent
from robustbench_gan.results.stored import MEASURED, difference, read_stored, write_text
from robustbench_gan.training.store import Store
from robustbench_gan.training.workshop import Workshop

LEAST = 10  # cells that are run again, where there are so many with a number
LONGEST = 1e6  # minutes of a cell; with a limit its time is estimated first, as in the presets' runs
NO_CODE = (
    "data",
    "train_seed",
)  # what a cell is identified by besides code: no rewriting makes these the same
DEFENSE_GAN = "defense-gan"
UNCOMPARED = (*MEASURED, "hardware", "versions", "fingerprint", "checks", "converted_from")


@dataclass(frozen=True)
class Signed:
    """A record where it lies, and its question as the code of today would plan it."""

    path: Path
    result: Result
    planned: Planned

    @property
    def moved(self) -> dict[str, tuple[str, str]]:
        """The hashes of code that changed: old and new by name."""
        old, new = self.result.cell.identity, self.planned.cell.identity
        names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        return {name: (old.get(name, ""), new.get(name, "")) for name in names}

    @property
    def declined_otherwise(self) -> str:
        """How a cell that is not run is declined for another reason today, which is known without running anything."""
        was = self.result.reason if self.result.status == "not applicable" else ""
        now = self.planned.reason
        return (
            f"{self.path.name} was {was or 'run'!r} and is now declined: {now}"
            if now not in ("", was)
            else ""
        )

    @property
    def shows(self) -> set[Any]:
        """What running it again shows to be as it was: its attack, its hashes, and that of Defense-GAN."""
        spec = Spec.of(self.result.cell.attack)
        own = {spec.name, *((name, *both) for name, both in self.moved.items())}
        return own | ({DEFENSE_GAN} if DEFENSE_GAN in str(self.result.cell.defense) else set())


def resign(directory: Path, seed: int, cells: int) -> dict[str, Any] | None:
    """Rewrite the hashes of all records of a run, if a sample comes out the same; what is to be noted of it.

    None, with the records as they were, where something differs. Raises UsageError for records that more than a change
    of code stands between, and for what cannot be planned again.
    """
    shops: dict[int, Workshop] = {}
    root = root_of(directory)
    signed = [_read(path, shops) for path in records_below(root)]
    stale = [one for one in signed if one.moved]
    again = sample(stale, seed, cells)
    faults = [one.declined_otherwise for one in stale]
    fresh: dict[Path, Result] = {}
    for one in [] if any(faults) else again:
        fresh[one.path] = _run(one, shops)
        faults.append(found := differing(one.result, fresh[one.path]))
        told = f"DIFFERENT in {found}" if found else "the same"
        print(f"{one.path.relative_to(root)}: {told}", flush=True)
    if fault := next(filter(None, faults), ""):
        print(f"nothing was changed: {fault}")
        return None
    renewed = [(one, _renewed(one, fresh.get(one.path))) for one in signed]
    changed = [(one, result) for one, result in renewed if result != one.result]
    for one, result in changed:
        write_text_atomically(one.path, write_text(result))
    print(f"{len(changed)} of {len(signed)} records rewritten, {len(again)} of them run again")
    return {
        "directory": directory.name,
        "changed": len(changed),
        "seed": seed,
        "run_again": [str(one.path.relative_to(root)) for one in again],
        "hashes": _hashes(one for one, _ in changed),
    }


def _read(path: Path, shops: dict[int, Workshop]) -> Signed:
    """A record with its cell planned anew. Raises UsageError where other things than code differ."""
    result, schema = read_stored(path)
    if schema != SCHEMA_VERSION:
        raise UsageError(f"{path} is of an older schema: `rbg leaderboard convert` converts it.")
    cell = result.cell
    seed = int(cell.identity.get("train_seed", 0))
    shop = shops.setdefault(seed, Workshop(Store(), train_seed=seed))
    one = Signed(path, result, planned_again(cell, shop))
    if wrong := [name for name in one.moved if name in NO_CODE]:
        raise UsageError(f"{path} differs in {', '.join(wrong)}, which is no code: run its command again.")
    return one


def planned_again(cell: Cell, shop: Workshop) -> Planned:
    """A cell as the code of today plans it. Raises UsageError where it asks for something else then."""
    asked = {
        "datasets": [str(cell.dataset)], "classifiers": [str(cell.classifier)], "defenses": [str(cell.defense)],
        "attacks": [str(cell.attack)], "threats": [str(cell.threat)], "goals": [cell.goal], "norm": cell.norm,
        "eps": [cell.eps], "samples": cell.samples, "seed": cell.seed, "judge_seeds": cell.judge_seeds,
        "train_seed": shop.train_seed,
    }  # fmt: skip
    (planned,) = lay_out(Matrix.model_validate(asked), shop)
    if planned.cell.question != cell.question:
        raise UsageError(
            f"{cell.attack} against {cell.defense} is another question today: run its command again."
        )
    return planned


def sample(stale: Iterable[Signed], seed: int, cells: int) -> list[Signed]:
    """Cells with a number, at random: one of whatever changed or is an attack, and at least so many.

    Beside them all that only a run can tell to be not applicable, which takes no time.
    """
    stale = sorted(stale, key=lambda one: one.path)
    numbered = [one for one in stale if one.result.outcomes is not None]
    random.Random(seed).shuffle(numbered)
    chosen: list[Signed] = []
    shown: set[Any] = set()
    for one in numbered:
        if not one.shows <= shown:
            chosen.append(one)
            shown |= one.shows
    chosen += [one for one in numbered if one not in chosen][: max(0, cells - len(chosen))]
    declined = [one for one in stale if one.result.status == "not applicable" and not one.planned.reason]
    return sorted([*chosen, *declined], key=lambda one: one.path)


def _run(one: Signed, shops: Mapping[int, Workshop]) -> Result:
    """The result of a cell by the code of today, at the record's radii and in as many threads, which round alike."""
    shop = shops[int(one.result.cell.identity.get("train_seed", 0))]
    threads = torch.get_num_threads()
    torch.set_num_threads(int(one.result.hardware.get("threads", threads)))
    try:
        with tempfile.TemporaryDirectory() as directory:
            keep = None if one.result.adversarial is None else Path(directory)
            (result,) = execute(
                [one.planned], shop, Settings(max_cell_minutes=LONGEST, keep=keep), Path(directory),
                run_cell=evaluate_cell, on_step=lambda step: None, on_result=lambda item, result, stored: None,
            )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    return result.model_copy(update={"budgets": one.result.budgets})


def differing(old: Result, new: Result) -> str:
    """The first place where two results differ that must not; flags are compared as the checks of today derive them."""
    if old.evidence is not None:
        old = with_flags(old)
    if old.status != new.status:
        return f"status: {new.status}: {new.reason}"
    both = []
    for result in (old, new):
        plain = json.loads(result.model_dump_json(exclude=set(UNCOMPARED)))
        plain["cell"].pop("identity")
        if old.evidence is None:
            plain.pop("evidence")
        both.append(plain)
    return difference(*both)


def _renewed(one: Signed, fresh: Result | None) -> Result:
    """The record as it is signed today. One that was run again gets its evidence, where it had none."""
    result = one.result
    if fresh is not None and result.evidence is None:
        result = result.model_copy(update={"evidence": fresh.evidence, "checks": fresh.checks})
    if result.evidence is not None and result.checks != checks_digest():
        result = with_flags(result)
    cell = one.planned.cell
    return coherent(result.model_copy(update={"cell": cell, "fingerprint": cell.fingerprint}))


def _hashes(changed: Iterable[Signed]) -> dict[str, dict[str, str]]:
    """Of each kind of hash, the new ones by the old."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for one in changed:
        for name, (old, new) in one.moved.items():
            found[name][old] = new
        if one.result.evidence is not None and one.result.checks != checks_digest():
            found["checks"][one.result.checks] = checks_digest()
    return {name: dict(sorted(both.items())) for name, both in sorted(found.items())}

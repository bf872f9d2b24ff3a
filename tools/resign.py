"""Carry records and bundled weights over a change of code that leaves all outcomes as they were.

Records and recipes hold hashes of the code that made them, so that none outlives it. After a change that moves no
outcome, such as a function in another file, this runs a random sample again and compares all of it; where anything
differs, nothing is changed. Else the hashes are rewritten, and docs/resigned.json notes old, new and the sample:

    python tools/resign.py records leaderboard "the judge is a file of its own"
    python tools/resign.py zoo train BEFORE   # with the code before the change, BEFORE being any directory
    python tools/resign.py zoo carry BEFORE "the judge is a file of its own"
    python tools/generate_docs.py             # whatever shows the records

The sample takes a cell of every attack and of every hash that changes, one of Defense-GAN among them, and ten at least;
`--seed` draws another. Records are compared but for times, memory, hardware, versions and hashes of code. Cells run in
as many threads as in their record; run it on such a processor as they were made on, since another one rounds otherwise.
Where the checks changed as well, flags are derived from the evidence in a record.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import resign_records
import resign_zoo
from zoo import PAGE

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import write_text_atomically
from robustbench_gan.training.store import ZOO

ROOT = Path(__file__).resolve().parents[1]
LOG = ROOT / "docs" / "resigned.json"


def note(log: Path, entry: dict[str, Any]) -> None:
    """Add an entry to the log."""
    notes = json.loads(log.read_text(encoding="utf-8")) if log.exists() else []
    write_text_atomically(log, json.dumps([*notes, entry], indent=1) + "\n")


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    records = commands.add_parser("records", help="a directory of results")
    records.add_argument("directory", type=Path, help="the directory of a run")
    records.add_argument("reason", help="the change of code that leaves all outcomes as they are")
    records.add_argument("--seed", type=int, default=0, help="draws another sample")
    records.add_argument("--cells", type=int, default=resign_records.LEAST, help="to run again, at least")
    steps = commands.add_parser("zoo", help="the bundled weights").add_subparsers(dest="step", required=True)
    training = steps.add_parser("train", help="with the code before the change: train what takes moments")
    training.add_argument("before", type=Path, help="a directory for it")
    carrying = steps.add_parser("carry", help="with the code after the change: compare, and carry over")
    carrying.add_argument("before", type=Path, help="the directory of `train`")
    carrying.add_argument("reason", help="the change of code that leaves all weights as they are")
    return parser.parse_args(arguments)


def main(
    arguments: list[str] | None = None, *, zoo: Path = ZOO, page_at: Path = PAGE, log: Path = LOG
) -> int:
    """Returns 1, with everything as it was, where something did not come out the same."""
    asked = parsed(arguments)
    if asked.command == "zoo" and asked.step == "train":
        return resign_zoo.before(asked.before, zoo)
    if asked.command == "zoo":
        found = resign_zoo.carry(asked.before, zoo, page_at)
        changed = bool(found and found["moved"])
    else:
        found = resign_records.resign(asked.directory, asked.seed, asked.cells)
        changed = bool(found and found["changed"])
    if found is None:
        return 1
    if changed:
        note(log, {"what": asked.command, "reason": asked.reason, **found})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UsageError as error:
        sys.exit(f"resign: {error}")

"""Run the self-test and keep what it found in docs/self_test.json, from which generate_docs.py makes docs/controls.md.

It takes minutes; `--seed` may be repeated, 0, 1 and 2 by default. Exits with 1 where a row is not as it was meant.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from robustbench_gan.audit.catalogue import chosen
from robustbench_gan.audit.self_test import SEEDS, Row, self_test

FILE = Path(__file__).parents[1] / "docs" / "self_test.json"


def say(row: Row) -> None:
    """One line a row."""
    print(
        f"{'as meant' if row.caught else 'NOT SO  '} seed {row.seed} {row.control}: {', '.join(row.raised)}",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, action="append", help="a seed; repeatable")
    seeds = parser.parse_args(arguments).seed or list(SEEDS)
    rows = self_test(seeds, chosen=chosen, on_row=say)
    FILE.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    print(f"wrote {FILE}; now run python tools/generate_docs.py")
    return 0 if all(row.caught for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Write tests/expected_statuses.json: what every attack x defense x threat model comes to, to be read and committed.

Run it after registering an attack or a defense, and read the difference before committing it: the test
compares with this file so that no combination becomes "not applicable", or stops being so, unnoticed.
"""

from __future__ import annotations

import json
from pathlib import Path

from robustbench_gan.cell.question import why_not
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.contracts.threat import THREATS
from robustbench_gan.nouns import registry

FILE = Path(__file__).parent.parent / "tests" / "expected_statuses.json"


def statuses() -> dict[str, dict[str, dict[str, str]]]:
    """Attack, defense, threat model to "run" or the reason why not; untargeted, linf or what the attack has instead."""
    table: dict[str, dict[str, dict[str, str]]] = {}
    for attack in registry.names("attacks"):
        info = info_of(registry.load("attacks", attack))
        norm = "linf" if "linf" in info.norms else info.norms[-1]
        table[attack] = {}
        for defense in registry.names("defenses"):
            chain = [registry.load("defenses", defense)]
            table[attack][defense] = {
                name: why_not(info, chain, make(), "untargeted", norm) or "run"
                for name, make in THREATS.items()
            }
    return table


if __name__ == "__main__":
    FILE.write_text(json.dumps(statuses(), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {FILE}; read the difference before committing it")

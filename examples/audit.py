"""Can the number be believed? Questions that an evaluation does not ask, answered by runs of their own.

Here two of nineteen: does PGD find more in twice the steps, and do random points of the ball beat it?
The same as `rbg audit bit-depth --check ...`; without --check all are asked.
"""

import json
import sys
from pathlib import Path

from robustbench_gan.cli import main

out = Path(sys.argv[1] if len(sys.argv) > 1 else "rbg-audit")
main(
    [
        "audit", "bit-depth", "--dataset", "control-digits", "--classifier", "small-cnn", "--eps", "0.2",
        "--samples", "20", "--steps", "10", "--check", "convergence", "--check", "random-search", "--out", str(out),
    ],
    standalone_mode=False,
)  # fmt: skip
audit = json.loads((out / "audit.json").read_text(encoding="utf-8"))
print("recorded in audit.json:", ", ".join(sorted(audit)))

"""How a defense's parameter changes what it keeps: a table, a CSV and, with `pip install matplotlib`, a plot.

The same as `rbg sweep bit-depth --over bits=1,2,4 ...`; the second time it only reads what the first has written.
"""

import sys
from pathlib import Path

from robustbench_gan.cli import main

out = Path(sys.argv[1] if len(sys.argv) > 1 else "rbg-sweep")
main(
    [
        "sweep", "bit-depth", "--over", "bits=1,2,4", "--dataset", "control-digits", "--classifier", "small-cnn",
        "--attack", "fgsm", "--threat", "white-box", "--eps", "0.2", "--samples", "50", "--out", str(out),
    ],
    standalone_mode=False,
)  # fmt: skip
print((out / "sweep.md").read_text(encoding="utf-8"))

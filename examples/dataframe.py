"""Results as a pandas DataFrame: what every attack leaves of every defense, side by side.

`python examples/dataframe.py DIRECTORY` reads the results of a run; without one, those that are published here.
"""

import sys
from pathlib import Path

from robustbench_gan.leaderboard import frame, load_results

directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "leaderboard"
rows = frame(load_results(directory))
counted = rows[rows["status"] == "ok"]  # only these may be ranked
short = {
    name: counted[name].str.partition(":")[0] for name in ("defense", "threat", "attack")
}  # without parameters
counted = counted.assign(**short)
print(
    counted.pivot_table(index=["defense", "threat"], columns="attack", values="robust_accuracy")
    .round(3)
    .to_string()
)
print(f"\n{len(rows)} rows with {len(rows.columns)} columns, among them", ", ".join(rows.columns[:8]))

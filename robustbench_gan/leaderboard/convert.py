"""Records of an older schema, rewritten as those of today. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import write_text_atomically
from robustbench_gan.leaderboard.load import check_place, records_below, root_of
from robustbench_gan.nouns.record import SCHEMA_VERSION
from robustbench_gan.results.stored import read_stored, write_text


class Converted(NamedTuple):
    """How many records were rewritten, how many needed it not, and what is wrong with those that were refused."""

    converted: int
    kept: int
    refused: tuple[str, ...]


def convert(directory: Path) -> Converted:
    """Rewrite every record below a directory that is of an older schema, each whole or not at all.

    What contradicts itself, or lies elsewhere than its cell says, is left as it is.
    """
    root = root_of(Path(directory))
    converted, kept, refused = 0, 0, []
    for path in records_below(root):
        try:
            result, schema = read_stored(path)
            check_place(path, root, result)
        except UsageError as error:
            refused.append(str(error))
            continue
        if schema == SCHEMA_VERSION:
            kept += 1
            continue
        write_text_atomically(path, write_text(result))
        converted += 1
    return Converted(converted, kept, tuple(refused))

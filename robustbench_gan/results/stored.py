"""Records on disk: their JSON, the digests that find an edit, reading with every check, older schemas. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from robustbench_gan.base.errors import UsageError
from robustbench_gan.base.files import read_text
from robustbench_gan.flags.derive import contradiction
from robustbench_gan.nouns.record import SCHEMA_VERSION, Result
from robustbench_gan.results.coherence import incoherence

LARGEST: Final = 32 * 2**20  # bytes of a record: 10,000 images under 100 known seeds take 15 MiB
MEASURED: Final = (
    "seconds",
    "peak_memory_mb",
    "estimate_seconds",
)  # differ from run to run of the same answer
SEALS: Final = ("digest", "checksum")
LATER: Final = frozenset(
    {"checks", "evidence"}
)  # fields added since schema 2 was first written: a record may lack them
OLDER: Final = (1,)  # schemas that are converted
MEND: Final = "Delete it and run again, or take the copy that the run wrote."


_NUMBERS = re.compile(
    r'"(?:[^"\\]|\\.)*"|(\[[\s\d.,e+-]+\])'
)  # lists of numbers alone; in a text they are text


class Stored(NamedTuple):
    """A result as it was read, and the schema that its file is written in."""

    result: Result
    schema: int


def write_text(result: Result) -> str:
    """The record as indented JSON that `read_result` gives back unchanged, numbers of one list on one line."""
    text = json.dumps(sealed(result), indent=1, sort_keys=True)
    return _NUMBERS.sub(lambda found: " ".join(found[1].split()) if found[1] else found[0], text) + "\n"


def sealed(result: Result) -> dict[str, Any]:
    """What a file holds, as JSON's own types: the record with its digest and its checksum."""
    plain: dict[str, Any] = json.loads(result.model_dump_json())
    plain["digest"] = _digest(plain)
    return {**plain, "checksum": _checksum(plain)}


def digest(result: Result) -> str:
    """A SHA-256 over all of a record but what a clock or the memory decided: the same in every run that agrees."""
    return str(sealed(result)["digest"])


def _digest(plain: Mapping[str, Any]) -> str:
    return _hash({key: value for key, value in plain.items() if key not in (*SEALS, *MEASURED)})


def _checksum(plain: Mapping[str, Any]) -> str:
    return _hash({key: value for key, value in plain.items() if key != "checksum"})


def _hash(plain: Mapping[str, Any]) -> str:
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_result(path: Path) -> Result:
    """Read and validate one record. Raises UsageError that says what is wrong with it and how to mend it."""
    return read_stored(path).result


def read_stored(path: Path) -> Stored:
    """`read_result` that also says what schema the file is written in; an older one is converted in memory."""
    raw = _json(path)
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, bool) or version not in (SCHEMA_VERSION, *OLDER):
        raise UsageError(
            f"{path} has schema version {version!r:.40}, this program reads {SCHEMA_VERSION}. "
            "Use the version of robustbench-gan that wrote it, or delete it and run again."
        )
    if version in OLDER:
        return Stored(
            _validated(path, {**raw, "schema_version": SCHEMA_VERSION, "converted_from": version}), version
        )
    content = {key: value for key, value in raw.items() if key not in SEALS}
    result = _validated(path, content)
    if place := difference(content, json.loads(result.model_dump_json())):
        raise UsageError(f"{path} is not a valid result: {place} is not as this program writes it. {MEND}")
    for seal, own in (("digest", _digest(raw)), ("checksum", _checksum(raw))):
        if raw.get(seal) != own:
            raise UsageError(f"{path} is not a valid result: its {seal} does not fit: it was edited. {MEND}")
    return Stored(result, SCHEMA_VERSION)


def _json(path: Path) -> Any:
    def no_number(token: str) -> Any:
        raise ValueError(f"{token} is no number")

    try:
        return json.loads(
            read_text(path, LARGEST), object_pairs_hook=_without_repeats, parse_constant=no_number
        )
    except UsageError:
        raise
    except RecursionError:
        raise UsageError(f"{path} is no result: it is nested too deeply. Delete it and run again.") from None
    except ValueError as error:
        if path.suffix != ".json":
            raise UsageError(
                f"{path} is no record of a run: those are .json files below its results."
            ) from error
        raise UsageError(f"{path} is no JSON ({str(error)[:200]}); delete it and run again.") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(
            f"{next(key for key in keys if keys.count(key) > 1)!r:.60} stands twice in one object"
        )
    return found


def _validated(path: Path, raw: dict[str, Any]) -> Result:
    """A result of which all that arithmetic knows holds. Raises UsageError with the first thing that does not."""
    try:
        result = Result.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))[:100] or "record"
        raise UsageError(f"{path} is not a valid result: {place}: {first['msg']}.") from error
    if fault := next(incoherence(result), "") or contradiction(result):
        raise UsageError(f"{path} is not a valid result: {fault}. {MEND}")
    return result


def difference(raw: Any, written: Any, place: str = "") -> str:
    """The first place where two JSON values differ, in value or in type; empty where they do not."""
    if isinstance(raw, dict) and isinstance(written, dict):
        for key in sorted({*raw, *written}):
            inner = f"{place}.{key}" if place else key
            if key not in raw and inner in LATER:
                continue
            if key not in raw or key not in written:
                return inner[:100]
            if found := difference(raw[key], written[key], inner):
                return found
        return ""
    if isinstance(raw, list) and isinstance(written, list) and len(raw) == len(written):
        places = (
            difference(a, b, f"{place}.{at}") for at, (a, b) in enumerate(zip(raw, written, strict=True))
        )
        return next((found for found in places if found), "")
    return "" if type(raw) is type(written) and raw == written else place[:100] or "record"

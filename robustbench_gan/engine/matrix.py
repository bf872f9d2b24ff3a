"""A matrix of data sets, classifiers, defenses, attacks and threat models, read from TOML and laid out as cells."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError

from robustbench_gan.base.errors import UsageError, unknown
from robustbench_gan.base.files import read_text
from robustbench_gan.nouns.budget import radius
from robustbench_gan.nouns.record import AS_TEXT, TEXT, AChain, AClassifier, ASpec
from robustbench_gan.nouns.spec import LONGEST, UNDEFENDED, Spec
from robustbench_gan.results import arithmetic

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

LARGEST = 1 << 20  # bytes of a matrix file


def _written(eps: Any) -> Any:
    """A radius written as text as a number; numbers are for the budget to check."""
    return radius(eps) if isinstance(eps, str) else eps


def _threat_model(given: Spec | str) -> Spec:
    """A threat model as it stands. `gray-box:copy,gradient=bpda` is short for `gray-box:copy=True,gradient=bpda`.

    Records write it in the second way.
    """
    if isinstance(given, str):
        head, comma, rest = given.strip().partition(",")
        if head.strip() == "gray-box:copy":
            return Spec.parse(f"gray-box:copy=true{comma}{rest}").spelt(given)
    return Spec.of(given)


AThreat = Annotated[Spec, PlainValidator(_threat_model), AS_TEXT, TEXT]
SPECS = ("datasets", "classifiers", "defenses", "attacks", "threats")
Whole = Annotated[int, Field(strict=True)]  # `true` is no 1
MOST_SEEDS = 100_000  # of a judge


class Block(BaseModel):
    """One cross product; a list of length one is a choice made. Specs are read from text here, at the door."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    datasets: list[ASpec] = Field(default=[Spec("mnist")], min_length=1)
    classifiers: list[AClassifier] = Field(default=[Spec("small-cnn")], min_length=1)
    defenses: list[AChain] = Field(default=[UNDEFENDED], min_length=1)
    attacks: list[ASpec] = Field(default=[Spec("fgsm")], min_length=1)
    threats: list[AThreat] = Field(default=[Spec("white-box")], min_length=1)
    goals: list[str] = Field(default=["untargeted"], min_length=1)
    norm: Annotated[str, BeforeValidator(str)] = "linf"
    eps: list[Annotated[float, BeforeValidator(_written)]] = Field(default=[0.3], min_length=1)
    gradient: str | None = None
    eot: Whole | None = Field(default=None, ge=1)
    samples: Whole | Literal["all"] = 200
    seed: Whole = Field(default=0, gt=-arithmetic.LARGEST, lt=arithmetic.LARGEST)
    judge_seeds: Whole = Field(default=1, ge=1, le=MOST_SEEDS)
    train_seed: Whole = 0


class Matrix(Block):
    """Several blocks that share what they do not override, and the limit on a cell's cost."""

    name: str = "matrix"
    max_cell_minutes: float | None = Field(default=None, gt=0, strict=True)
    block: list[dict[str, Any]] = Field(default_factory=list)

    def blocks(self) -> Iterator[Block]:
        """Each block with the shared settings filled in; the matrix itself where it has none."""
        shared = self.model_dump(exclude={"name", "max_cell_minutes", "block"})
        for overrides in self.block or [{}]:
            if overrides.get("train_seed", self.train_seed) != self.train_seed:
                raise UsageError(
                    f"train_seed = {overrides['train_seed']} in a block: a matrix has one for all of its trainings, "
                    f"{self.train_seed}; set it once above the blocks."
                )
            yield Block.model_validate({**shared, **overrides})


def presets() -> list[str]:
    """The names of the presets in the package."""
    files = resources.files("robustbench_gan").joinpath("presets").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def preset_text(name: str) -> str:
    """A preset's TOML. Raises UsageError for an unknown one."""
    if name not in presets():
        raise unknown("preset", name, presets())
    return resources.files("robustbench_gan").joinpath(f"presets/{name}.toml").read_text(encoding="utf-8")


def read_matrix(text: str, source: str, overrides: dict[str, Any]) -> Matrix:
    """Read a matrix from TOML, with options of the command line on top of it and of its blocks.

    Raises UsageError naming the source and the line, or the key, that is wrong.
    """
    raw = _read_toml(text, source)
    given = raw.get("block")
    for block in given if isinstance(given, list) else []:
        for key in overrides if isinstance(block, dict) else ():
            block.pop(key, None)
    try:
        matrix = Matrix.model_validate({**raw, **overrides})
        list(matrix.blocks())
    except RecursionError:
        raise UsageError(f"{source} is nested too deeply to be a matrix.") from None
    except ValidationError as error:
        raise _first_fault(error, source, overrides) from error
    return matrix


def _read_toml(text: str, source: str) -> dict[str, Any]:
    """The tables of a text. Raises UsageError naming the line that is wrong."""
    if any(len(line) > LONGEST for line in text.splitlines()):
        raise UsageError(f"{source} is no matrix: a line has more than {LONGEST} characters.")
    try:
        found: dict[str, Any] = tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"{source} is not valid TOML: it is nested too deeply.") from None
    except tomllib.TOMLDecodeError as error:
        # tomllib gives a line everywhere but at the end of the file
        last = f"(at line {max(len(text.splitlines()), 1)}, where the file ends)"
        why = str(error).replace("(at end of document)", last)
        raise UsageError(f"{source} is not valid TOML: {why}.") from error
    return found


def _first_fault(error: ValidationError, source: str, overrides: Collection[str]) -> UsageError:
    """What is wrong with a matrix: an unknown key, a spec that cannot be read, or a value that cannot be."""
    first = error.errors()[0]
    place, key = ".".join(map(str, first["loc"])), first["loc"][0]
    if first["type"] == "extra_forbidden":
        return unknown(f"key in {source}:", place, Matrix.model_fields)
    if key in SPECS and isinstance(unread := first.get("ctx", {}).get("error"), UsageError):
        return UsageError(str(unread) if key in overrides else f"{source}: {unread}")
    why = str(first.get("ctx", {}).get("error", first["msg"])).rstrip(".")
    source = "the command line" if key in overrides else source
    return UsageError(f"{source}: {place} = {first['input']!r:.100}: {why}.")


def read_matrix_file(path: Path, overrides: dict[str, Any]) -> Matrix:
    """`read_matrix` for a file."""
    return read_matrix(read_text(path, LARGEST), str(path), overrides)

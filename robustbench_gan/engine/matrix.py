"""A matrix of data sets, classifiers, defenses, attacks and threat models, read from TOML and laid out as cells."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from torch import nn

from robustbench_gan.base import stopping
from robustbench_gan.base.digests import code_digest
from robustbench_gan.base.errors import NotApplicable, UsageError, plain, said, unknown
from robustbench_gan.base.files import read_text, slug
from robustbench_gan.base.redirect import aside
from robustbench_gan.base.trial import Died
from robustbench_gan.cell.question import Planned, stages_of, why_not
from robustbench_gan.cell.rehearsal import Asked, refusal
from robustbench_gan.contracts.attack import info_of
from robustbench_gan.contracts.threat import THREATS, ThreatModel
from robustbench_gan.data.dataset import HOLDOUT
from robustbench_gan.engine.identity import identity_of, identity_of_substitute
from robustbench_gan.guards.strangers import made, naming, try_first, unchanged
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.budget import Budget, norm_named, radius
from robustbench_gan.nouns.record import GOALS, Cell
from robustbench_gan.nouns.spec import LONGEST, Chain, Spec, as_params
from robustbench_gan.nouns.user_files import DIGITS, FileReference, is_file_reference, with_files
from robustbench_gan.results import coherence
from robustbench_gan.training.workshop import Workshop

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

LARGEST = 1 << 20  # bytes of a matrix file


def _written(eps: Any) -> Any:
    """A radius written as text as a number; numbers are for the budget to check."""
    return radius(eps) if isinstance(eps, str) else eps


Whole = Annotated[int, Field(strict=True)]  # `true` is no 1
MOST_SEEDS = 100_000  # of a judge


class Block(BaseModel):
    """One cross product. Texts are specs; a list of length one is a choice made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    datasets: list[str] = Field(default=["mnist"], min_length=1)
    classifiers: list[str] = Field(default=["small-cnn"], min_length=1)
    defenses: list[str] = Field(default=["none"], min_length=1)
    attacks: list[str] = Field(default=["fgsm"], min_length=1)
    threats: list[str] = Field(default=["white-box"], min_length=1)
    goals: list[str] = Field(default=["untargeted"], min_length=1)
    norm: Annotated[str, BeforeValidator(str)] = "linf"
    eps: list[Annotated[float, BeforeValidator(_written)]] = Field(default=[0.3], min_length=1)
    gradient: str | None = None
    eot: Whole | None = Field(default=None, ge=1)
    samples: Whole | Literal["all"] = 200
    seed: Whole = Field(default=0, gt=-coherence.LARGEST, lt=coherence.LARGEST)
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
    if any(len(line) > LONGEST for line in text.splitlines()):
        raise UsageError(f"{source} is no matrix: a line has more than {LONGEST} characters.")
    try:
        raw = tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"{source} is not valid TOML: it is nested too deeply.") from None
    except tomllib.TOMLDecodeError as error:
        # tomllib gives a line everywhere but at the end of the file
        last = f"(at line {max(len(text.splitlines()), 1)}, where the file ends)"
        why = str(error).replace("(at end of document)", last)
        raise UsageError(f"{source} is not valid TOML: {why}.") from error
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
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise unknown(f"key in {source}:", place, Matrix.model_fields) from error
        why = str(first.get("ctx", {}).get("error", first["msg"])).rstrip(".")
        source = "the command line" if first["loc"][0] in overrides else source
        raise UsageError(f"{source}: {place} = {first['input']!r:.100}: {why}.") from error
    return matrix


def read_matrix_file(path: Path, overrides: dict[str, Any]) -> Matrix:
    """`read_matrix` for a file."""
    return read_matrix(read_text(path, LARGEST), str(path), overrides)


@aside()
def lay_out(matrix: Matrix, workshop: Workshop) -> list[Planned]:
    """Every cell of a matrix once, those that share a system next to each other.

    Raises UsageError for unknown names and parameters, absurd budgets, samples beyond the split and weights that
    nothing takes, before anything is trained.
    """
    planned: dict[str, Planned] = {}
    blocks = list(matrix.blocks())
    check_weights([c for b in blocks for c in b.classifiers], workshop)
    for block in blocks:
        for item in _cells(block, workshop):
            known = planned.get(item.cell.fingerprint, item)
            planned[item.cell.fingerprint] = replace(
                known, budgets=tuple(sorted({*known.budgets, *item.budgets}))
            )
    return list(planned.values())


def check_weights(classifiers: Iterable[str], workshop: Workshop) -> None:
    """Raise UsageError for a workshop's weights that none of these classifiers takes."""
    classifiers = list(classifiers)
    files = [FileReference.parse(text) for text in classifiers if is_file_reference(text)]
    unfinished = any(text.strip().endswith(".py") for text in classifiers)  # is told so where it is named
    if workshop.weights is not None and not unfinished and all(given.weights for given in files):
        raise UsageError(
            f"--weights {workshop.weights}: they are those of a classifier given as a file that names none itself; "
            "write --classifier path/to/file.py:factory."
        )


def _cells(block: Block, workshop: Workshop) -> Iterator[Planned]:
    attacks = [canonical("attacks", Spec.of(text)) for text in block.attacks]
    threats = [_threat(text, block) for text in block.threats]
    goals = [_goal(g) for g in block.goals]
    budgets = [_budget(block.norm, eps) for eps in block.eps]
    functions = {text: registry.load("attacks", Spec.of(text).name) for text in attacks}
    digests = {text: with_files(code_digest(f), Spec.of(text)) for text, f in functions.items()}
    models = {text: name_classifier(text, workshop) for text in block.classifiers}
    for dataset, classifier, defense in product(block.datasets, block.classifiers, block.defenses):
        data = name_dataset(canonical("datasets", Spec.of(dataset)), workshop)
        model = models[classifier]
        _try_classifier(data, model, workshop)
        chain = "+".join(canonical("defenses", spec) for spec in Chain.of(defense))
        identity = identity_of(workshop, data, model, chain, block.train_seed)
        images = workshop.dataset(data)
        form = images.shape, len(images.classes)
        declined, stages = _declined(chain, *form), stages_of(chain)
        for (text, threat), attack, goal, budget in product(threats, attacks, goals, budgets):
            first, samples = _samples(block, threat, len(images.test))
            info = info_of(functions[attack])
            cell = Cell(
                dataset=data, classifier=model, defense=chain, attack=attack, goal=goal, threat=text,
                norm=budget.norm, eps=float("inf") if info.minimal else budget.eps,
                first=first, samples=samples, seed=block.seed, judge_seeds=block.judge_seeds,
                identity={**identity, **identity_of_substitute(threat), "attack": digests[attack]},
            )  # fmt: skip
            reason = (
                declined
                or why_not(info, stages, threat, goal, budget.norm, budget.eps, form[1])
                or refused_before(functions[attack], attack, Budget(budget.norm, cell.eps), goal, *form)
            )
            asked = (budget.eps,) if info.minimal and budget.eps < float("inf") else ()
            yield Planned(cell, threat, reason, info.control, asked)


def canonical(group: str, spec: Spec) -> str:
    """The spec with every parameter written out; checks names, parameters and types."""
    values = registry.resolve(group, spec)[1]
    if group == "defenses":
        _try_to_build(spec)
    if group == "attacks":
        try:
            info_of(registry.load(group, spec.name))
        except TypeError as error:
            raise UsageError(f"the plugin {spec.name!r} is broken: {said(error)}.") from error
    return str(Spec(spec.name, as_params(values)))


def _try_to_build(spec: Spec) -> None:
    """Find impossible parameters before anything is trained; what else goes wrong is for the cell to record."""
    try:
        made("defenses", spec, nn.Identity())
    except UsageError:
        raise
    except BaseException as error:
        stopping.pass_on(error)


def name_dataset(text: str, workshop: Workshop) -> str:
    """The data set's text for records: one found by a path is called by its own name and digits of its content.

    Paths are private, and what a user calls `mnist` may be anything.
    """
    params = dict(Spec.of(text).params)
    if "path" not in params:
        return text
    kept = {key: value for key, value in params.items() if key not in ("path", "name")}
    data = workshop.dataset(text)
    name = f"{slug(data.name)}@{data.digest[:DIGITS]}"
    return workshop.adopt(str(Spec(name, as_params(kept))), text, data.digest)


def name_classifier(text: str, workshop: Workshop) -> str:
    """The classifier's text for records: a registered one in full, a user's file by its name and its content."""
    if text.strip().endswith(".py"):
        raise UsageError(
            f"--classifier {text}: add the function in it that makes the model, as in {text}:factory."
        )
    if is_file_reference(text):
        return workshop.adopt_classifier(text)
    return canonical("models", Spec.of(text))


def _try_classifier(data: str, model: str, workshop: Workshop) -> None:
    """Find out before anything is run that a user's classifier cannot be made, or that its weights do not fit."""
    if not is_file_reference(model):
        return
    try:
        workshop.classifier(data, model)
    except UsageError:
        raise
    except BaseException as error:  # remembered by the workshop: each cell that needs it fails
        stopping.pass_on(error)


def _threat(text: str, block: Block) -> tuple[str, ThreatModel]:
    """A threat model and its canonical text; `gradient` and `eot` of the block fill in what it leaves open.

    `gray-box:copy,gradient=bpda` is short for `gray-box:copy=True,gradient=bpda`, which is how records write it.
    """
    head, comma, rest = text.strip().partition(",")
    spec = Spec.of(f"gray-box:copy=true{comma}{rest}" if head.strip() == "gray-box:copy" else text)
    flag: dict[str, bool] = {}
    if spec.name == "gray-box" and dict(spec.params).get("copy") is True:
        flag = {"copy": True}
        spec = Spec("gray-box:copy", tuple(p for p in spec.params if p[0] != "copy"))
    if spec.name not in THREATS:
        raise unknown("threat model", spec.name, THREATS)
    known = registry.parameters(THREATS[spec.name])
    given = dict(spec.params)
    defaults = {"gradient": block.gradient, "draws": block.eot}
    for key, value in defaults.items():
        if value is not None and key in known:
            given.setdefault(key, value)
    values = registry.bind(Spec(spec.name, as_params(given)), THREATS[spec.name], "threat model")
    if isinstance(values.get("model"), Spec):  # model=b(dropout=keep), as specs nest elsewhere
        values["model"] = str(values["model"])
    threat = THREATS[spec.name](**values)
    if threat.draws < 1 or threat.unroll < 1 or (threat.name == "black-box" and threat.rounds < 1):
        raise UsageError(f"{text}: draws, unroll and rounds must be 1 or more.")
    if threat.name == "query" and threat.limit < 1:
        raise UsageError(f"{text}: limit={threat.limit}: expected 1 or more queries an image.")
    if threat.name == "black-box":
        canonical("models", Spec.of(threat.model))
        if threat.substitute != "papernot" and threat.step_sign != "plus":
            raise UsageError(
                f"{text}: step_sign is of papernot's augmentation; {threat.substitute} has none."
            )
        if threat.substitute == "papernot" and threat.answers != "labels":
            raise UsageError(f"{text}: papernot learns from labels alone; take substitute=static for scores.")
    return str(Spec(spec.name.removesuffix(":copy"), as_params({**flag, **values}))), threat


def _goal(text: str) -> Any:
    if text not in GOALS:
        raise unknown("goal", text, GOALS)
    return text


def _budget(norm: str, eps: float) -> Budget:
    return Budget(norm_named(norm), eps)


def _samples(block: Block, threat: ThreatModel, total: int) -> tuple[int, int]:
    """First judged image and how many. The first 150 test images are the substitute's wherever that fits.

    So all threat models judge the same images; only when all images are asked for does black-box judge fewer.
    """
    black = threat.name == "black-box"
    if block.samples == "all":
        return (HOLDOUT, total - HOLDOUT) if black else (0, total)
    if block.samples < 1 or block.samples > total - (HOLDOUT if black else 0):
        raise UsageError(
            f"samples={block.samples}: the test split has {total} images"
            + (f", {HOLDOUT} of them the substitute's" if black else "")
            + ". Ask for at least 1 and no more, or for 'all'."
        )
    return (HOLDOUT if block.samples <= total - HOLDOUT else 0), block.samples


def _declined(chain: str, shape: tuple[int, int, int], classes: int) -> str:
    """Why a defense cannot be built as asked, or not for such images, as it says itself; empty where it can.

    Asked once for all of its cells, so that no attack is declined alone.
    """
    for spec in Chain.of(chain):
        try:
            stage = made("defenses", spec, nn.Identity())
            with unchanged("defenses", spec):
                try_first("defenses", spec, partial(stage.why_not, shape, classes), (shape, classes))
                answer = stage.why_not(shape, classes)
            if isinstance(answer, str) and answer:
                return plain(answer)
        except NotApplicable as why:
            return said(why) or "it does not say why"
        except BaseException as error:  # the cell's to record
            stopping.pass_on(error)
    return ""


@lru_cache(maxsize=1024)
def refused_before(
    function: Any, attack: str, budget: Budget, goal: str, shape: tuple[int, int, int], classes: int
) -> str:
    """What an attack refuses whatever the system is; empty where it refuses nothing, or is a stranger's to ask later.

    Ours check before their first pass, and so do those that say `checks_first`; any other's code runs in its cells
    alone, where it harms nothing else. Raises UsageError for parameters that it refuses.
    """
    spec = Spec.of(attack)
    info = info_of(function)
    ours = registry.entry("attacks", spec.name).is_ours
    if not (ours or info.checks_first) or budget.norm not in info.norms:
        return ""
    parameters = registry.resolve("attacks", spec)[1]
    asked = Asked(budget, goal != "untargeted", shape, classes)
    with unchanged("attacks", spec), naming(spec):
        try:
            try_first("attacks", spec, lambda: refusal(function, info, parameters, asked), asked)
        except Died:
            return ""  # the cell's to record
        return refusal(function, info, parameters, asked)

"""What a user asks for under the names that records have for it, every parameter written out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

from robustbench_gan.base import stopping
from robustbench_gan.base.errors import UsageError, said, unknown
from robustbench_gan.base.files import slug
from robustbench_gan.contracts.attacks import info_of
from robustbench_gan.contracts.threat import THREATS, ThreatModel
from robustbench_gan.engine.matrix import Block
from robustbench_gan.guards.strangers import made
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.spec import Spec, as_params
from robustbench_gan.nouns.user_files import DIGITS, FileReference, is_file_reference

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Workshop


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


def name_threat(text: str, block: Block) -> tuple[str, ThreatModel]:
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

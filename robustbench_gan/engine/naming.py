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
from robustbench_gan.nouns.spec import DIGITS, Classifier, FileReference, Spec, as_params

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Workshop


def check_weights(classifiers: Iterable[Classifier], workshop: Workshop) -> None:
    """Raise UsageError for a workshop's weights that none of these classifiers takes."""
    files = [given for given in classifiers if isinstance(given, FileReference)]
    if workshop.weights is not None and all(given.weights for given in files):
        raise UsageError(
            f"--weights {workshop.weights}: they are those of a classifier given as a file that names none itself; "
            "write --classifier path/to/file.py:factory."
        )


def canonical(group: str, spec: Spec) -> Spec:
    """The spec with every parameter written out; checks names, parameters and types."""
    values = registry.resolve(group, spec)[1]
    if group == "defenses":
        _try_to_build(spec)
    if group == "attacks":
        try:
            info_of(registry.load(group, spec.name))
        except TypeError as error:
            raise UsageError(f"the plugin {spec.name!r} is broken: {said(error)}.") from error
    return Spec(spec.name, as_params(values))


def _try_to_build(spec: Spec) -> None:
    """Find impossible parameters before anything is trained; what else goes wrong is for the cell to record."""
    try:
        made("defenses", spec, nn.Identity())
    except UsageError:
        raise
    except BaseException as error:
        stopping.pass_on(error)


def name_dataset(spec: Spec, workshop: Workshop) -> Spec:
    """The data set as records write it: one found by a path is called by its own name and digits of its content.

    Paths are private, and what a user calls `mnist` may be anything.
    """
    params = dict(spec.params)
    if "path" not in params:
        return spec
    kept = {key: value for key, value in params.items() if key not in ("path", "name")}
    data = workshop.dataset(spec)
    name = f"{slug(data.name)}@{data.digest[:DIGITS]}"
    return workshop.adopt(Spec(name, as_params(kept)), spec, data.digest)


def name_classifier(given: Classifier, workshop: Workshop) -> Classifier:
    """The classifier as records write it: a registered one in full, a user's file by its name and its content."""
    if isinstance(given, FileReference):
        return workshop.adopt_classifier(given)
    return canonical("models", given)


def name_threat(given: Spec, block: Block) -> tuple[Spec, ThreatModel]:
    """A threat model as records write it, and in full; the block fills in the `gradient` and `eot` it leaves open."""
    spec, flag = given, dict[str, bool]()
    if spec.name == "gray-box" and spec.get("copy") is True:
        flag = {"copy": True}
        spec = Spec("gray-box:copy", tuple(p for p in spec.params if p[0] != "copy"))
    if spec.name not in THREATS:
        raise unknown("threat model", spec.name, THREATS)
    known = registry.parameters(THREATS[spec.name])
    defaults = {"gradient": block.gradient, "draws": block.eot}
    filled_in = {key: value for key, value in defaults.items() if value is not None and key in known}
    values = registry.bind(
        spec.replaced({**filled_in, **dict(spec.params)}), THREATS[spec.name], "threat model"
    )
    if isinstance(values.get("model"), Spec):  # model=b(dropout=keep), as specs nest elsewhere
        values["model"] = str(values["model"])
    threat = THREATS[spec.name](**values)
    _check_threat(threat, given)
    return Spec(spec.name.removesuffix(":copy"), as_params({**flag, **values})), threat


def _check_threat(threat: ThreatModel, given: Spec) -> None:
    """Raises UsageError for counts below 1, and for what a black-box protocol has no use for."""
    if threat.draws < 1 or threat.unroll < 1 or (threat.name == "black-box" and threat.rounds < 1):
        raise UsageError(f"{given}: draws, unroll and rounds must be 1 or more.")
    if threat.name == "query" and threat.limit < 1:
        raise UsageError(f"{given}: limit={threat.limit}: expected 1 or more queries an image.")
    if threat.name == "black-box":
        canonical("models", threat.model)
        if threat.substitute != "papernot" and threat.step_sign != "plus":
            raise UsageError(
                f"{given}: step_sign is of papernot's augmentation; {threat.substitute} has none."
            )
        if threat.substitute == "papernot" and threat.answers != "labels":
            raise UsageError(
                f"{given}: papernot learns from labels alone; take substitute=static for scores."
            )

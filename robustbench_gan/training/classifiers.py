"""Classifiers in the making: registered ones, trained, and those that a user gives as a file with its weights."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from torch import Tensor, nn

from robustbench_gan.base import trial
from robustbench_gan.base.digests import code_digest
from robustbench_gan.base.errors import Fatal, UsageError
from robustbench_gan.base.python_file import files_opened
from robustbench_gan.data.dataset import Dataset
from robustbench_gan.guards.strangers import made, undone
from robustbench_gan.models import door
from robustbench_gan.models.from_file import factory_from_file
from robustbench_gan.models.logits import WrongForm
from robustbench_gan.models.schedule import schedule_of
from robustbench_gan.models.weight_files import fill
from robustbench_gan.nouns import registry
from robustbench_gan.nouns.spec import Classifier, FileReference, Spec
from robustbench_gan.nouns.user_files import Own, unseen, user_digest, with_files
from robustbench_gan.training.loop import classifier_recipe, train_classifier
from robustbench_gan.training.networks import freeze, fresh
from robustbench_gan.training.store import Artifact, read_artifact

if TYPE_CHECKING:
    from robustbench_gan.training.workshop import Workshop


def make_classifier(workshop: Workshop, dataset: Spec, classifier: Classifier) -> tuple[nn.Module, Artifact]:
    """A classifier, frozen and inside the door, and its artifact: from the store, trained, or the user's own."""
    data = workshop.dataset(dataset)
    if isinstance(classifier, FileReference):
        try:
            return _users_classifier(workshop, data, workshop.aliases[classifier])
        except UsageError as error:  # of the user's own file, which every cell needs
            raise Fatal(str(error)) from error
    factory = registry.load("models", classifier.name)
    schedule = schedule_of(factory)
    model = fresh(lambda: made("models", classifier, data.shape, len(data.classes)), workshop.train_seed)
    model = door.admitted(model.to(workshop.device))
    code = with_files(code_digest(factory), classifier)
    recipe = classifier_recipe(str(classifier), schedule, data, workshop.train_seed, code)

    def build() -> tuple[dict[str, Tensor], dict[str, float]]:
        name = f"training {classifier.name} on {data.name}"
        info = train_classifier(model, data, schedule, seed=workshop.train_seed, description=name)
        return model.state_dict(), info

    artifact = workshop.store.fetch("classifier", recipe, build)
    model.load_state_dict(dict(artifact.tensors))
    return looked_at(workshop, model, data), artifact


def _users_classifier(workshop: Workshop, data: Dataset, own: Own) -> tuple[nn.Module, Artifact]:
    given = own.place
    assert isinstance(given, FileReference) and given.weights is not None, "adopted without weights"
    form = data.shape, len(data.classes)
    try:
        trial.tried((given.source, own.digest, form), lambda: factory_from_file(given)(*form))
    except trial.Died as error:
        raise UsageError(f"--classifier {given.source} cannot be made: {error}.") from error
    with files_opened() as opened, undone():
        model = factory_from_file(given)(*form)
    if file := unseen(given, opened - {given.weights.absolute()}):
        raise UsageError(
            f"--classifier {given.source} reads {file} beside it under a name that is put together: a change there "
            f"would not be noticed. Write the name whole in {given.path.name}, as in FILES = [{file.name!r}]."
        )
    artifact = read_artifact(given.weights, f"user-{own.digest}")
    check_unchanged(own, user_digest(given))
    if prefix := fill(model, artifact.tensors, str(given.weights), given.source):
        print(f"{given.weights}: {prefix!r} taken off the names of all weights.", file=sys.stderr)
    try:
        return looked_at(workshop, model.to(workshop.device), data), artifact
    except WrongForm as error:
        raise UsageError(f"--classifier {given.source}: {error}") from error


def looked_at(workshop: Workshop, model: nn.Module, data: Dataset) -> nn.Module:
    """A classifier frozen, inside the door and asked about clean images. Raises WrongForm as `door.look`."""
    inside = freeze(door.admitted(model))
    clean = data.validation.pixels(slice(0, door.LOOKED_AT)).to(workshop.device)
    door.look(inside, clean, len(data.classes), data.name)
    return inside


def check_unchanged(own: Own, digest: str) -> None:
    """Raise UsageError where something of the user's is not what it was when its cells were planned."""
    if digest != own.digest:
        raise UsageError(f"{own.place} has changed since the run began: run the same command again.")

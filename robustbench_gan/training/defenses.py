"""Defenses in the making: fitted around their classifier, and the copies that an attacker fits from another seed."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from robustbench_gan.base.errors import NotApplicable, UsageError, said
from robustbench_gan.contracts.composition import Composed
from robustbench_gan.contracts.defense import Defense
from robustbench_gan.contracts.threat import NOTHING_TO_COPY
from robustbench_gan.data.dataset import TrainingData
from robustbench_gan.guards.guard import left_alone
from robustbench_gan.guards.strangers import made, try_first
from robustbench_gan.guards.surroundings import Surroundings
from robustbench_gan.training.classifiers import looked_at
from robustbench_gan.training.fetched import class_names, fetched_by, noting_fetched
from robustbench_gan.training.networks import freeze

if TYPE_CHECKING:
    from robustbench_gan.training.orders import Names
    from robustbench_gan.training.workshop import Workshop


def make_defense(workshop: Workshop, names: Names, seed: int) -> Defense:
    """A defense fitted around its classifier from a training seed, frozen and sealed.

    Raises Meddled where it changed what is not its own, UsageError where it is not for such images.
    """
    dataset, classifier, chain = names
    base, artifact = workshop.classifier(dataset, classifier)
    stages = []
    data, loaded = workshop.dataset(dataset), workshop.loaded(dataset).whole()
    around = Surroundings(generators=True, thorough=True)
    with left_alone(f"{chain.name}, when it was fitted,", *workshop.seals(base), loaded, around=around):
        for spec in chain:
            stage = made("defenses", spec, base, key=artifact.key)
            form = data.shape, len(data.classes)
            try_first("defenses", spec, functools.partial(stage.why_not, *form), form)
            stages.append(stage)
        defense: Defense = stages[0] if len(stages) == 1 else Composed(stages)
        defense.base_key = artifact.key
        if why := defense.why_not(data.shape, len(data.classes)):
            raise UsageError(f"{chain}: {why}.")
        with noting_fetched(workshop, defense):
            defense.fit(TrainingData(data), seed, workshop.store)
        freeze(defense.to(workshop.device))
        for stage in stages:  # asked for once, so that what it says does not depend on who asks
            stage.__dict__["training_keys"] = functools.partial(dict, dict(stage.training_keys()))
    if defense.core is not base:
        core = looked_at(workshop, defense.core, data)
        for stage in (defense, *stages):
            stage.core = core
    workshop.seal(defense, "the defense", without=[base])
    return defense


def make_copy(workshop: Workshop, names: Names) -> Defense:
    """What `Workshop.copy` gives, fitted. Raises NotApplicable where it would be the defense itself."""
    try:
        real = workshop.defense(*names)
        named = real.training_keys()
        copy = make_defense(workshop, names, workshop.copy_seed) if named else None
    except NotApplicable as why:  # the defense's code: no attack is for it to decline
        raise RuntimeError(f"NotApplicable in the training of a copy: {said(why)}") from why
    if copy is None:
        if stored := fetched_by(workshop, real):
            raise RuntimeError(
                f"{class_names(real)}.training_keys() names no part, and its fit stored {sorted(stored)}"
            )
        raise NotApplicable(NOTHING_TO_COPY)
    if set(copy.training_keys().values()) == set(named.values()):
        if fetched_by(workshop, copy) != fetched_by(workshop, real):
            raise RuntimeError(
                f"{class_names(real)}.training_keys() names the same parts whatever the seed, and its fit stored "
                "others from another one"
            )
        raise NotApplicable("the defense's training has no seed: a copy would be the defense itself")
    return copy
